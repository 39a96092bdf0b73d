"""What waits on the queues for this worker's device: known to a worker that could forward it."""

from collections import Counter
from threading import Lock

import redis

from vaefarm_shared.queues import parts_of
from vaefarm_shared.reading import read_queues
from vaefarm_shared.workers import read_workers

from .reports import REMOTE


class Backlog:
    """Each VAE's waiting jobs, shared out among the devices that decode them; nothing until somebody looks."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._shares: dict[str, float] = {}

    def share(self, vae: str) -> float:
        """How many of a VAE's waiting jobs one device will have to decode."""
        with self._lock:
            return self._shares.get(vae, 0.0)

    def look(self, connection: redis.Redis) -> None:
        """Read the queues' lengths, and who serves them. Raises what redis-py raises."""
        waiting: Counter[str] = Counter()
        for queue in read_queues(connection):
            waiting[parts_of(queue.name)[0]] += queue.queued
        devices = Counter(
            vae for one in read_workers(connection) if one.get("device") != REMOTE for vae in one.get("vaes", {})
        )
        with self._lock:
            self._shares = {vae: jobs / max(1, devices[vae]) for vae, jobs in waiting.items()}

    def forget(self) -> None:
        """A claim found nothing: nothing waits."""
        with self._lock:
            self._shares = {}
