"""Chores that a worker or a gateway does on their time, whoever asks for what: reaping, signs of life, tidying."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from .connection import is_away

logger = logging.getLogger(__name__)

#: A chore and the seconds between two of its rounds.
Chore = tuple[float, Callable[[], Any]]

#: Seconds between two rounds of tidying: expired registry entries, files that no record names.
TIDY_SECONDS: Final[float] = 300.0


class Keeper:
    """A thread that does chores on their time; one that fails keeps no other from its turn."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._chores = chores
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vaefarm-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float | None = None) -> bool:
        """End; whether the round under way has, after waiting `seconds` for it, or as long as it takes."""
        self._stopping.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        due = [time.monotonic()] * len(self._chores)
        while not self._stopping.wait(max(0.0, min(due) - time.monotonic())):
            for place, (period, chore) in enumerate(self._chores):
                if time.monotonic() >= due[place]:
                    due[place] = time.monotonic() + period
                    self._do(chore)

    @staticmethod
    def _do(chore: Callable[[], Any]) -> None:
        try:
            chore()
        except Exception as error:
            if is_away(error):
                logger.warning("Redis is away: %s", error)
            else:
                logger.exception("a chore failed")
