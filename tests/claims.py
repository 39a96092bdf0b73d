"""Claims made by hand, for tests of what a worker that holds them may do."""

import redis

from vaefarm_shared import leases, transitions
from vaefarm_shared.leases import Claim, Source, Wanted
from vaefarm_shared.queues import PRIORITIES, SIZE_CLASSES

EVERY_SIZE = tuple(name for name, _ in SIZE_CLASSES)


def take(
    connection: redis.Redis, jobs: int = 1, *, vae: str = "demo", worker: str = "by-hand", lease_seconds: float = 60.0
) -> list[Claim]:
    """Claim up to `jobs` jobs of a VAE, whatever their size; a lease of 0 seconds has ended at once."""
    sources = [Source(vae, priority, 0.0, EVERY_SIZE) for priority in PRIORITIES]
    wanted = Wanted(sources, jobs, 1 << 40, lease_seconds)
    return [one.claim for one in leases.claim(connection, worker, wanted)]


def begin(connection: redis.Redis, *claims: Claim, worker: str = "by-hand") -> list[int | str]:
    """Begin claims as one batch."""
    return transitions.begin(connection, [(claim, None) for claim in claims], worker, shared=len(claims) > 1)
