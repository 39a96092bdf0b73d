"""Results of jobs that ended together, some at a time: whoever takes one takes the next one soon."""

import os
from collections.abc import Sequence
from threading import Lock
from typing import Final

from .transport import Fetched, Transport

#: Results that are read together and held until they are taken or others are read, and their bytes, but for a single
#: one that is larger.
AHEAD_JOBS: Final[int] = 16
AHEAD_BYTES: Final[int] = 8 * 1024 * 1024


class ReadAhead:
    """Fetches ended jobs in their order, and gives each once: then it is asked for anew."""

    def __init__(self, transport: Transport, job_ids: Sequence[str]) -> None:
        self._transport = transport
        self._job_ids = job_ids
        self._places = {job_id: place for place, job_id in enumerate(job_ids)}
        #: The place of the first that was neither read nor passed over.
        self._next = 0
        self._read: dict[str, Fetched] = {}
        self._lock = Lock()
        self._pid = os.getpid()

    def take(self, job_id: str) -> Fetched | None:
        """A job's result, read with those of some jobs behind it; None where it is to be asked for. From any thread."""
        if os.getpid() != self._pid:
            # A fork's lock may be held by a thread that it does not have.
            return None
        with self._lock:
            if self._places[job_id] >= self._next:
                self._read_from(self._places[job_id])
            return self._read.pop(job_id, None)

    def _read_from(self, place: int) -> None:
        wanted = self._job_ids[place : place + AHEAD_JOBS]
        found = self._transport.fetch_many(wanted)
        self._read = {job_id: one for job_id, one in zip(wanted, found, strict=False) if one is not None}
        self._next = place + len(found)
