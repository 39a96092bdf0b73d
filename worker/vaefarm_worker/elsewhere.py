"""Whether another worker that lives could take a job that this one cannot."""

import redis

from vaefarm_shared import keys
from vaefarm_shared.leases import Claim
from vaefarm_shared.queues import size_of
from vaefarm_shared.workers import holders, read_workers


def another_holds(connection: redis.Redis, claim: Claim, vae: str, worker: str, lack: str | None = None) -> bool:
    """Whether a worker other than `worker`, and than those that gave the job back, serves its VAE and size.

    Args:
        lack: What the other must not say that it lacks.
    """
    avoid = (connection.hget(keys.job(claim.job_id), "avoid") or b"").decode().split(",")  # type: ignore[union-attr]
    workers = [
        one
        for one in read_workers(connection)
        if vae not in one.get("unavailable", {}) and (lack is None or lack not in one.get("lacks", ()))
    ]
    return bool(holders(workers, vae, size_of(claim.queue)) - {worker, *avoid})
