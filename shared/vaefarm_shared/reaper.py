"""The reaper: what must be looked after though nobody asks, each second, in every worker and gateway or alone.

It returns the jobs of the dead, gives back the budget of what expired, queues what waited for an ended job, and fails
what nobody can hold. Any number of them may run side by side.
"""

import logging
import time
from typing import Final, cast

import redis

from . import keys, rq_bridge
from .job import JobStatus
from .leases import Reaped, reap
from .scripts import script
from .silences import Silences
from .stranded import Stranded
from .transitions import Outcome, settle

logger = logging.getLogger(__name__)

#: Seconds between two looks.
LOOK_SECONDS: Final[float] = 1.0

#: Seconds between two looks for jobs that nobody can hold.
STRANDED_SECONDS: Final[float] = 5.0

#: Entries of the budget that one look gives back, and dependents that it queues.
LOOK_ENTRIES: Final[int] = 1000


class Reaper:
    """Call `look` each second; it raises what redis-py raises, and may be called again."""

    def __init__(self, connection: redis.Redis, lease_seconds: float, max_attempts: int) -> None:
        self._connection = connection
        self._max_attempts = max_attempts
        self._stranded = Stranded(connection)
        self._silences = Silences(connection, lease_seconds)
        self._stranded_due = 0.0

    def look(self) -> list[Reaped]:
        """One look at everything; return the jobs whose workers fell silent."""
        reaped = self._reap() if self._silences.are_over() else []
        script("expire_kept").run(self._connection, LOOK_ENTRIES)
        self._queue_dependents()
        if time.monotonic() >= self._stranded_due:
            self._stranded_due = time.monotonic() + STRANDED_SECONDS
            self._stranded.look()
        return reaped

    def _reap(self) -> list[Reaped]:
        reaped = reap(self._connection, self._max_attempts)
        for one in reaped:
            job_id = one.claim.job_id
            which = {"job_id": job_id}
            if not one.exhausted:
                logger.warning("job %s returned to %s: its worker went silent", job_id, one.claim.queue, extra=which)
                continue
            reason = f"{one.attempts} workers went silent while they decoded it; the last was {one.worker_name}"
            if one.last_error:
                reason += f": {one.last_error}"
            settle(self._connection, [Outcome(one.claim, JobStatus.FAILED, one.worker_name, reason)])
            logger.warning("job %s failed: %s", job_id, reason, extra=which)
        return reaped

    def _queue_dependents(self) -> None:
        waited_for = cast("list[bytes]", self._connection.srandmember(keys.DEPENDENTS, LOOK_ENTRIES))
        for raw in waited_for:
            job_id, _, queue = raw.decode().partition(" ")
            try:
                rq_bridge.enqueue_dependents(self._connection, job_id, queue)
            except redis.RedisError:
                raise
            except Exception:
                # An outsider's job that RQ cannot read keeps nobody else's from its turn.
                logger.exception("the jobs that wait for %s could not be queued", job_id, extra={"job_id": job_id})
            self._connection.srem(keys.DEPENDENTS, raw)
