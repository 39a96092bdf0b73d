"""Jobs that no living worker can take: they fail with that reason instead of waiting for ever.

A worker that serves their VAE must live, though: where there is none at all, one may be on its way.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any, Final, cast

import redis
from rq.utils import as_text

from . import keys
from .job import JobStatus
from .leases import Source, Wanted, claim
from .queues import PRIORITIES, size_of
from .rq_bridge import queue_key
from .transitions import Outcome, settle
from .workers import holders, read_workers

logger = logging.getLogger(__name__)

#: Seconds for which nobody must have been able to hold a job before it fails: a larger worker may be restarting.
PATIENCE_SECONDS: Final[float] = 60.0

#: Jobs at the head of a queue that are looked at for workers that handed them back, and ended in one look.
HEAD_JOBS: Final[int] = 32

#: Queues of a VAE and priority that are looked at: as many as a claim looks at.
LANES: Final[int] = 256

#: The name in which stranded jobs are claimed.
REAPER: Final[str] = "reaper"


class Stranded:
    """Finds them, remembers since when, and ends them."""

    def __init__(self, connection: redis.Redis, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._connection = connection
        self._patience_seconds = patience_seconds
        self._since: dict[str, float] = {}

    def look(self) -> int:
        """Fail what has been stranded for long enough; return how many jobs."""
        workers = read_workers(self._connection)
        seen = dict(self._find(workers))
        now = time.monotonic()
        self._since = {name: self._since.get(name, now) for name in seen}
        ended = 0
        for name, (vae, priority, size, reason) in seen.items():
            if now - self._since[name] >= self._patience_seconds:
                ended += self._fail(vae, priority, size, reason)
        return ended

    def _find(self, workers: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[str, str, str, str]]]:
        for vae in {vae for one in workers for vae in one.get("vaes", {})}:
            for priority in PRIORITIES:
                listed = cast("list[bytes]", self._connection.zrange(keys.queue_index(vae, priority), 0, LANES - 1))
                for queue in (raw.decode() for raw in listed):
                    size = size_of(queue)
                    able = holders(workers, vae, size)
                    reason = f"no worker that lives has room for a picture of size class {size!r} of VAE {vae!r}"
                    if not able:
                        yield queue, (vae, priority, size, f"{reason}; start one that has, then retry")
                    elif (error := self._avoided(queue, able)) is not None:
                        yield queue, (vae, priority, size, f"every worker that lives handed it back: {error}")

    def _avoided(self, queue: str, able: set[str]) -> str | None:
        """Why the head of a queue was handed back by everyone who could take it; None unless it was."""
        head = self._connection.lindex(queue_key(queue), 0)
        if head is None:
            return None
        avoid, error = self._connection.hmget(keys.job(as_text(head)), "avoid", "last_error")
        return as_text(error or b"") if avoid is not None and able <= set(as_text(avoid).split(",")) else None

    def _fail(self, vae: str, priority: str, size: str, reason: str) -> int:
        wanted = Wanted((Source(vae, priority, 0.0, (size,)),), HEAD_JOBS, 1 << 62, 60.0)
        claimed = claim(self._connection, REAPER, wanted)
        if claimed:
            logger.warning("%d jobs fail: %s", len(claimed), reason)
        settle(
            self._connection,
            [
                Outcome(one.claim, JobStatus.FAILED, REAPER, f"{reason}; start one that has, then retry")
                for one in claimed
            ],
        )
        return len(claimed)
