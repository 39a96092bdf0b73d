"""Repeating what may be repeated while Redis or the store is away or full."""

import logging
import time
from collections.abc import Callable
from threading import Event
from typing import Final, TypeVar

from redis import RedisError

from vaefarm_shared.connection import is_away, is_full
from vaefarm_shared.errors import FarmError
from vaefarm_shared.file_blobs import PASSING

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between tries: the first wait, and the longest.
FIRST_WAIT_SECONDS: Final[float] = 0.05
LONGEST_WAIT_SECONDS: Final[float] = 2.0


class Abandoned(FarmError):
    """A stopping worker gave up on a store that is away: no fault of the job's, which is left to its lease."""


class Patience:
    """How long a worker insists: for ever, and once it stops until its grace is over."""

    def __init__(self) -> None:
        self._stop_by = float("inf")
        self._over = Event()

    def end_by(self, moment: float) -> None:
        """Give up from that moment of the monotonic clock on."""
        self._stop_by = moment

    def end(self) -> None:
        """Give up now."""
        self._stop_by = 0.0
        self._over.set()

    def insist(self, call: Callable[[], T]) -> T:
        """Repeat a call that may be repeated until it succeeds.

        Raises:
            Abandoned: the worker stops, and its grace is over.
        """
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                return call()
            except (RedisError, OSError) as error:
                if not may_pass(error):
                    raise
                if time.monotonic() > self._stop_by:
                    raise Abandoned(f"the store is away or full: {error}") from error
                logger.warning("the store is away or full, once more in %.1f s: %s", wait, error)
                self._over.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def may_pass(error: Exception) -> bool:
    """Whether Redis or the store is away or full for now."""
    if isinstance(error, OSError):
        return error.errno is None or error.errno in PASSING
    return is_away(error) or is_full(error)
