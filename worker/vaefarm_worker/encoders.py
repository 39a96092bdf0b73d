"""The threads that write files while the device decodes: how many there are, and whether the device waits for them."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec

from vaefarm_shared.settings import Settings

from . import host_processors

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")

#: Threads beside a device that decodes on the processors itself: a picture takes it longer than its file takes them.
BESIDE_CPU: Final[int] = 2

#: Fewest and most threads beside another device, unless the settings name a number. One processor is the device's.
FEWEST: Final[int] = 2
MOST: Final[int] = 16


def encode_threads(settings: Settings, device: str) -> int:
    """How many threads write files beside a device of that name; none is started before it has something to write."""
    if settings.encode_threads is not None:
        return settings.encode_threads
    if device == "cpu":
        return BESIDE_CPU
    return max(FEWEST, min(MOST, host_processors.usable() - 1))


class Encoders:
    """Runs what makes a job's files, on threads, and tells once if the device waits for them."""

    def __init__(self, settings: Settings, device: str) -> None:
        self.threads = encode_threads(settings, device)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="vaefarm-encoder")
        self._lock = threading.Lock()
        self._unwritten = 0
        self._has_told = False

    def submit(self, work: Callable[Arguments, object], /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        """Have a thread do it; `work` raises nothing."""
        with self._lock:
            self._unwritten += 1
        self._pool.submit(self._do, work, *args, **kwargs)

    def note_full(self, held: int) -> None:
        """The outbox is full of `held` jobs, and the device waits: for the encoders, where most of them are theirs."""
        if self._has_told or self._unwritten <= max(self.threads, held // 2):
            return
        self._has_told = True
        logger.warning(
            "decoding waits for encoders: %d jobs are decoded, and %d threads write their files on %d processors;"
            " VAEFARM_ENCODE_THREADS allows more threads where processors are idle, and JPEG takes a twentieth of"
            " PNG's time, lossless WebP a half",
            *(self._unwritten, self.threads, host_processors.usable()),
        )

    def stop(self) -> None:
        """Begin nothing more, and wait for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _do(self, work: Callable[Arguments, object], /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            work(*args, **kwargs)
        finally:
            with self._lock:
                self._unwritten -= 1
