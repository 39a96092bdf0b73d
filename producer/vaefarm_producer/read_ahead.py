"""Results of jobs that ended together, some in a round trip: whoever takes one takes the next one soon."""

from collections.abc import Sequence
from threading import Lock
from typing import Final

from .transport import Fetched, Transport

#: Results that are read together: 4 MiB at most, as larger ones are read one by one.
AHEAD_JOBS: Final[int] = 16


class ReadAhead:
    """Fetches ended jobs in their order. Each that was read ahead is given once, then asked for anew."""

    def __init__(self, transport: Transport, job_ids: Sequence[str]) -> None:
        self._transport = transport
        self._job_ids = job_ids
        self._places = {job_id: place for place, job_id in enumerate(job_ids)}
        #: The place of the first that was neither read nor passed over.
        self._next = 0
        self._read: dict[str, Fetched] = {}
        self._lock = Lock()

    def fetch(self, job_id: str) -> Fetched:
        """As `Transport.fetch`, with the jobs behind it in the same round trip. From any thread."""
        with self._lock:
            if self._places[job_id] >= self._next:
                self._read_from(self._places[job_id])
            found = self._read.pop(job_id, None)
        return self._transport.fetch(job_id) if found is None else found

    def _read_from(self, place: int) -> None:
        wanted = self._job_ids[place : place + AHEAD_JOBS]
        found = self._transport.fetch_many(wanted)
        self._read.update((job_id, one) for job_id, one in zip(wanted, found, strict=True) if one is not None)
        # Where none came whole they are too large, or not in Redis, and so are those behind them.
        self._next = place + len(wanted) if any(found) else len(self._job_ids)
