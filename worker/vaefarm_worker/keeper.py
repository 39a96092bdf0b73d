"""What must go on while a job is decoded: leases renewed, the dead's jobs returned, the worker's life shown."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis

from vaefarm_shared import keys, leases, rq_bridge
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.connection import AWAY
from vaefarm_shared.fence import Claim
from vaefarm_shared.reading import named_blobs

logger = logging.getLogger(__name__)

#: Seconds between two looks for the jobs of dead workers.
REAP_SECONDS: Final[float] = 1.0

#: Seconds between two signs of life.
HEARTBEAT_SECONDS: Final[float] = 10.0

#: Seconds between two rounds of tidying: expired registry entries, files that no record names.
TIDY_SECONDS: Final[float] = 300.0


class Keeper:
    """A thread beside the worker's loop, with a connection of its own."""

    def __init__(
        self,
        connection: redis.Redis,
        blobs: BlobStore,
        lease_seconds: float,
        max_attempts: int,
        heartbeat: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._blobs = blobs
        self._lease_seconds = lease_seconds
        self._max_attempts = max_attempts
        self._heartbeat = heartbeat
        self._held: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vaefarm-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for the round under way."""
        self._stopping.set()
        self._thread.join()

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[None]:
        """Renew a claim's lease for as long as the block runs."""
        self._held.add(claim.job_id)
        try:
            yield
        finally:
            self._held.discard(claim.job_id)

    def _run(self) -> None:
        chores: list[tuple[float, Callable[[], Any]]] = [
            (self._lease_seconds / 4, self._renew),
            (REAP_SECONDS, self._reap),
            (HEARTBEAT_SECONDS, self._heartbeat),
            (TIDY_SECONDS, self._tidy),
        ]
        due = [0.0] * len(chores)
        while True:
            for place, (period, chore) in enumerate(chores):
                if time.monotonic() >= due[place]:
                    due[place] = time.monotonic() + period
                    self._do(chore)
            if self._stopping.wait(max(0.0, min(due) - time.monotonic())):
                return

    def _do(self, chore: Callable[[], Any]) -> None:
        try:
            chore()
        except AWAY as error:
            logger.warning("Redis is away: %s", error)
        except Exception:
            # A chore that fails must not end the others: a lease that nobody renews is lost.
            logger.exception("a chore failed")

    def _renew(self) -> None:
        leases.renew(self._connection, list(self._held), self._lease_seconds)

    def _reap(self) -> None:
        leases.reap(self._connection, self._max_attempts)

    def _tidy(self) -> None:
        rq_bridge.clean_registries(self._connection)
        swept = self._blobs.sweep(lambda references: named_blobs(self._connection, references))
        if swept:
            logger.info("swept %d files that no record names", swept)


def publish_worker(connection: redis.Redis, name: str, description: dict[str, Any]) -> None:
    """Show that a worker lives, and what it serves."""
    connection.set(keys.worker(name), json.dumps({"name": name, **description}), ex=keys.WORKER_SECONDS)
