"""Jobs that no living worker can take: they fail with that reason instead of waiting for ever.

A worker that serves their VAE must live, though: where there is none at all, one may be on its way. Only what waits at
the head of a queue is looked at, since nothing behind it is claimed before it.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import uuid4

import redis
from rq.utils import as_text

from . import keys
from .job import JobStatus
from .leases import Claim
from .queues import PRIORITIES, size_of
from .rq_bridge import queue_key
from .scripts import script
from .transitions import Outcome, settle
from .workers import holders, read_workers

logger = logging.getLogger(__name__)

#: Seconds for which nobody must have been able to hold a job before it fails: a larger worker may be restarting.
PATIENCE_SECONDS: Final[float] = 60.0

#: Jobs at the head of a queue that one look takes up: as many as a claim puts aside.
HEAD_JOBS: Final[int] = 32

#: Queues of a VAE and priority that one look takes up.
QUEUES: Final[int] = 1000

#: Seconds in which what was taken off a queue must have been settled.
LEASE_SECONDS: Final[float] = 60.0

#: The name in which stranded jobs are ended.
REAPER: Final[str] = "reaper"


@dataclass(frozen=True, slots=True)
class Found:
    """A job that nobody can take, and why."""

    job_id: str
    queue: str
    reason: str


class Stranded:
    """Finds them, remembers since when, and ends just these."""

    def __init__(self, connection: redis.Redis, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._connection = connection
        self._patience_seconds = patience_seconds
        self._since: dict[str, float] = {}

    def look(self) -> int:
        """Fail what has been stranded for long enough; return how many jobs."""
        found = list(self._find(read_workers(self._connection)))
        now = time.monotonic()
        self._since = {one.job_id: self._since.get(one.job_id, now) for one in found}
        return sum(self._fail(one) for one in found if now - self._since[one.job_id] >= self._patience_seconds)

    def _find(self, workers: list[dict[str, Any]]) -> Iterator[Found]:
        for vae in {vae for one in workers for vae in one.get("vaes", {})}:
            for priority in PRIORITIES:
                listed = cast("list[bytes]", self._connection.zrange(keys.queue_index(vae, priority), 0, QUEUES - 1))
                for queue in (raw.decode() for raw in listed):
                    yield from self._in_queue(queue, vae, holders(workers, vae, size_of(queue)))

    def _in_queue(self, queue: str, vae: str, able: set[str]) -> Iterator[Found]:
        head = [as_text(raw) for raw in self._connection.lrange(queue_key(queue), 0, HEAD_JOBS - 1)]
        if not able:
            size = size_of(queue)
            reason = f"no worker that lives has room for a picture of size class {size!r} of VAE {vae!r}"
            yield from (Found(job_id, queue, f"{reason}; start one that has, then retry") for job_id in head)
            return
        with self._connection.pipeline(transaction=False) as pipe:
            for job_id in head:
                pipe.hmget(keys.job(job_id), "avoid", "last_error")
            replies = pipe.execute(raise_on_error=False)
        for job_id, reply in zip(head, replies, strict=True):
            if isinstance(reply, list) and reply[0] and able <= set(reply[0].decode("utf-8", "replace").split(",")):
                error = (reply[1] or b"").decode("utf-8", "replace")
                yield Found(job_id, queue, f"every worker that lives handed it back: {error}")

    def _fail(self, found: Found) -> int:
        taken = script("strand").run(self._connection, found.queue, uuid4().hex[:16], LEASE_SECONDS, found.job_id)
        for job_id, token in taken:
            claim = Claim(job_id.decode(), found.queue, token.decode(), 0.0)
            settle(self._connection, [Outcome(claim, JobStatus.FAILED, REAPER, found.reason)])
            logger.warning("job %s failed: %s", found.job_id, found.reason, extra={"job_id": found.job_id})
        return len(taken)
