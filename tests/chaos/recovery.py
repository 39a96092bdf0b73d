"""How long a dead worker's jobs take to be queued or settled again."""

import threading
import time

from rq.utils import as_text

from vaefarm_shared import keys
from vaefarm_shared.connection import AWAY, connect


class Recovery:
    """Watches the leases that stand when a worker dies until each is gone.

    Nobody outside knows which of them were the dead's, so the longest of all counts: what it says is never too little.
    """

    def __init__(self, url: str) -> None:
        self._connection = connect(url)
        self._lock = threading.Lock()
        #: Token of each watched lease, by job id, and when its holder died.
        self._watched: dict[str, tuple[str, float]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recovery")
        self._thread.start()
        self._exempt: set[str] = set()
        self._paused_until = 0.0
        self.worst_seconds = 0.0

    def note_death(self) -> None:
        """Watch what is leased now."""
        now = time.monotonic()
        if now < self._paused_until:
            return
        try:
            leased = self._leases()
        except AWAY:
            return
        with self._lock:
            for job_id, token in leased.items():
                if token not in self._exempt:
                    self._watched.setdefault(job_id, (token, now))

    def exempt(self) -> None:
        """Never watch what is leased now: a worker was put to sleep, and what it holds waits for its lease to end."""
        try:
            self._exempt |= set(self._leases().values())
        except AWAY:
            self.pause(0.0)
        with self._lock:
            for job_id in [one for one, (token, _) in self._watched.items() if token in self._exempt]:
                del self._watched[job_id]

    def pause(self, seconds: float) -> None:
        """Watch nothing for a while: Redis itself is away, and nobody reaps until leases could be renewed again."""
        self._paused_until = time.monotonic() + seconds
        with self._lock:
            self._watched.clear()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._closing.wait(0.05):
            try:
                leased = self._leases() if self._watched else {}
            except AWAY:
                self.pause(0.0)
                continue
            now = time.monotonic()
            with self._lock:
                for job_id, (token, died) in list(self._watched.items()):
                    if leased.get(job_id) != token:
                        self.worst_seconds = max(self.worst_seconds, now - died)
                        del self._watched[job_id]

    def _leases(self) -> dict[str, str]:
        """The token of each job that is leased."""
        job_ids = [as_text(raw) for raw in self._connection.zrange(keys.LEASES, 0, -1)]  # type: ignore[arg-type]
        tokens = self._connection.mget([keys.lease(one) for one in job_ids]) if job_ids else []
        return {one: as_text(token) for one, token in zip(job_ids, tokens, strict=True) if token is not None}
