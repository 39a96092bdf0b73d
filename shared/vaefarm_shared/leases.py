"""Leases: which worker holds which job, until when, and what becomes of the jobs of those that fell silent."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, Literal
from uuid import uuid4

import redis

from . import keys, rq_bridge
from .queues import plain_queue_name
from .scripts import Argument, script

#: Jobs whose leases one look at the dead takes up.
REAP_JOBS: Final[int] = 200

#: What a job that is handed back pays: see `lua/give_back.lua`.
How = Literal["free", "alone", "attempt", "avoid"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in a worker's hands: whoever holds the token may change its state."""

    job_id: str
    queue: str
    token: str
    #: Redis' clock at the claim and at the submit, Unix seconds.
    claimed_at: float
    queued_at: float | None = None

    @property
    def execution(self) -> str:
        """The id of RQ's execution of the job under this claim."""
        return self.token


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """What came with a claim: the record's fields, and RQ's, none of which anybody has checked yet."""

    claim: Claim
    spec: bytes
    latent_reference: str
    attempts: int
    alone: bool
    #: Device seconds that its lane was charged.
    cost_seconds: float
    #: The latent's bytes, where they came with the job; else b"".
    latent: bytes
    #: The number of the attempt, where it has begun with the claim.
    begun: int | None
    rq_data: bytes
    rq_data_bytes: int
    rq_meta_bytes: int
    rq_hooks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """One index to claim from: the queues of a VAE and priority, what a pixel costs the device, what sizes it holds."""

    vae: str
    priority: str
    seconds_per_pixel: float
    size_classes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a worker asks for in one claim."""

    sources: Sequence[Source]
    jobs: int
    pixels: int
    lease_seconds: float
    #: Bytes of latents that come with their jobs.
    latent_bytes: int = 0
    #: Whether a job that comes alone, and with its latent, begins at once.
    begins: bool = False


def claim(connection: redis.Redis, worker_name: str, wanted: Wanted) -> list[ClaimedJob]:
    """Take jobs from the queues of `wanted.sources`, in their order, then from the plain queues of their VAEs.

    Should the reply be lost, the jobs come back when their leases end.
    """
    plain = [plain_queue_name(vae) for vae in dict.fromkeys(source.vae for source in wanted.sources)]
    arguments: list[Argument] = [wanted.jobs, wanted.pixels, wanted.lease_seconds, uuid4().hex[:16], worker_name]
    arguments += [wanted.latent_bytes, rq_bridge.date() if wanted.begins else "", len(plain), *plain]
    for source in wanted.sources:
        sizes = "," + "".join(f"{size}," for size in source.size_classes)
        arguments += [source.vae, source.priority, source.seconds_per_pixel, sizes]
    while True:
        claimed_at, dropped, *jobs = script("claim").run(connection, *arguments)
        # One call drops so many entries of canceled jobs and no more; behind them others may wait.
        if jobs or not dropped:
            return [_claimed(fields, float(claimed_at)) for fields in jobs]


def _claimed(fields: list[bytes], claimed_at: float) -> ClaimedJob:
    job_id, queue, token, cost, spec, latent, queued_at, attempts, alone, held, begun, *of_rq = fields
    data, data_bytes, meta_bytes, *hooks = of_rq
    one = Claim(
        job_id.decode(), queue.decode(), token.decode(), claimed_at, number(queued_at.decode("utf-8", "replace"))
    )
    return ClaimedJob(
        claim=one,
        spec=spec,
        latent_reference=latent.decode("utf-8", "replace"),
        attempts=int(number(attempts) or 0),
        alone=alone == b"1",
        cost_seconds=float(cost),
        latent=held,
        begun=int(begun) if begun else None,
        rq_data=data,
        rq_data_bytes=int(data_bytes),
        rq_meta_bytes=int(meta_bytes),
        rq_hooks=tuple(hooks),
    )


def give_back(
    connection: redis.Redis,
    claims: Sequence[tuple[Claim, How]],
    worker_name: str,
    reason: str = "",
    max_attempts: int = 1 << 30,
    *,
    died: bool = False,
) -> list[bool]:
    """Return jobs to the front of their queues, the first first, in one round trip.

    Args:
        max_attempts: A job that has spent so many is left to the reaper, which fails it.
        died: The worker is no more, and others say this for it: its leases count as lost.

    Returns:
        For each whether it was still this worker's.
    """
    if not claims:
        return []
    arguments: list[Argument] = [worker_name, reason, max_attempts, "1" if died else ""]
    for one, how in claims:
        arguments += [one.job_id, one.token, how]
    return [verdict != b"lost" for verdict in script("give_back").run(connection, *arguments)]


def renew(connection: redis.Redis, tokens: Sequence[tuple[str, str]], lease_seconds: float) -> int:
    """Move the ends of the leases of (job id, token) that still stand; return how many did."""
    if not tokens:
        return 0
    return int(script("renew").run(connection, lease_seconds, *(part for pair in tokens for part in pair)))


def lost(connection: redis.Redis, claims: Sequence[Claim]) -> list[Claim]:
    """Those of the claims that stand no more: their jobs were canceled, or are another's."""
    if not claims:
        return []
    tokens: Any = connection.mget([keys.lease(one.job_id) for one in claims])
    return [one for one, token in zip(claims, tokens, strict=True) if token != one.token.encode()]


@dataclass(frozen=True, slots=True)
class Reaped:
    """A job whose lease had ended: returned to its queue, or exhausted and left for a settle in the dead's name."""

    claim: Claim
    worker_name: str
    exhausted: bool
    attempts: int
    #: What was last said of it, where anything was.
    last_error: str


def reap(connection: redis.Redis, max_attempts: int) -> list[Reaped]:
    """Return the jobs whose leases have ended to the front of their queues; none when Redis took long to answer."""
    seconds, microseconds = connection.time()
    reply = script("reap").run(connection, REAP_JOBS, max_attempts, seconds + microseconds / 1e6)
    return [
        Reaped(
            Claim(job_id.decode(), queue.decode(), token.decode(), 0.0),
            worker.decode("utf-8", "replace"),
            verdict == b"exhausted",
            int(attempts),
            last_error.decode("utf-8", "replace"),
        )
        for job_id, queue, token, worker, verdict, attempts, last_error in reply
    ]


def number(value: str | bytes | None) -> float | None:
    """A field of a record as a finite number; None where it is missing or none."""
    try:
        found = None if value is None else float(value)
    except ValueError:
        return None
    return found if found is not None and isfinite(found) else None
