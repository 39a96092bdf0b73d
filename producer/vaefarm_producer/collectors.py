"""Threads that fetch what came of jobs, and discard jobs, beside the thread that hands results over."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from vaefarm_shared.errors import FarmError, FarmUnavailable, JobNotFound

from .transport import Transport

logger = logging.getLogger(__name__)

R = TypeVar("R")

#: Threads, and how many results wait at most for whoever takes them.
COLLECTORS: Final[int] = 4


class Stopped(Exception):
    """It was ended before this was done."""


class Collectors:
    """A few threads, which begin as they are needed."""

    def __init__(self, transport: Transport, patience_seconds: float) -> None:
        """`patience_seconds`: for how long a call is repeated while the farm is not reachable."""
        self._transport = transport
        self._patience_seconds = patience_seconds
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(COLLECTORS, "vaefarm-collect")

    def call(self, call: Callable[[], R]) -> "Future[R]":
        """A future of what a call returns."""
        return self._pool.submit(self._insist, call)

    def _insist(self, call: Callable[[], R]) -> R:
        if self._ending.is_set():
            raise Stopped
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, FarmUnavailable) and error.retryable),
            stop=stop_after_delay(self._patience_seconds) | stop_when_event_set(self._ending),
            sleep=sleep_using_event(self._ending),
            wait=wait_random_exponential(multiplier=0.05, max=2.0),
            reraise=True,
        )
        return retrying(call)

    def discard(self, job_id: str) -> None:
        """Discard a job some time soon; what cannot be discarded lives on to the end of its life."""
        try:
            self._pool.submit(self._discard, job_id)
        except RuntimeError:
            # At the interpreter's end no thread takes anything up.
            self._discard(job_id)

    def _discard(self, job_id: str) -> None:
        try:
            self._transport.discard(job_id)
        except JobNotFound:
            logger.debug("job %s is gone already", job_id, extra={"job_id": job_id})
        except FarmError as error:
            logger.warning("job %s is left to the end of its life: %s", job_id, error, extra={"job_id": job_id})

    def stop(self) -> None:
        """Begin no other call and repeat none; discards go on."""
        self._ending.set()

    def join(self) -> None:
        """Wait for what has begun, and for discards."""
        self._pool.shutdown(wait=True)
