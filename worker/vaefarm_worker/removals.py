"""What is no longer wanted outside of Redis is removed by a thread of its own: no job waits for it."""

import logging
import threading
from collections.abc import Iterable
from typing import Final

from vaefarm_shared.blobs import BlobStore

logger = logging.getLogger(__name__)

#: Blobs that are removed at a time.
MOST_BLOBS: Final[int] = 256


class Removals:
    """Latents of jobs that have ended, and pictures of jobs that were lost. What cannot be removed is left to the
    sweep."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._changed = threading.Condition()
        self._wanted: list[str] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="vaefarm-remover", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add(self, references: Iterable[str]) -> None:
        """Have these removed, those that lie outside of Redis."""
        outside = [one for one in references if not one.startswith("redis:")]
        if outside:
            with self._changed:
                self._wanted += outside
                self._changed.notify_all()

    def stop(self, seconds: float) -> None:
        """End once all that was added is removed, or after that time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopping)
                some, self._wanted = self._wanted[:MOST_BLOBS], self._wanted[MOST_BLOBS:]
            if not some:
                return
            try:
                self._blobs.delete_outside(some)
            except Exception as error:
                logger.warning("%d blobs are left to the sweep: %s", len(some), error)
