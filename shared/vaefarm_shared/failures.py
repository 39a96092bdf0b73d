"""Failed jobs: which there are and why, as RQ's failed registries of our queues list them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import redis
from rq.utils import as_text

from . import keys, rq_bridge, transitions
from .errors import JobExpired, JobNotFound
from .job import JobStatus
from .leases import number

#: Jobs of which one round trip reads the records.
PAGE: Final[int] = 500


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that ended without a picture, kept with its latent for its failure's life."""

    id: str
    vae: str
    reason: str
    attempts: int
    #: Unix seconds by Redis' clock.
    ended_at: float | None


def read_failed(connection: redis.Redis, vae: str | None = None) -> Iterator[FailedJob]:
    """Each failed job once, of one VAE or of all, in no order; a page is held at a time.

    One that is retried or expires meanwhile may be left out, no other.
    """
    for queue in _queues(connection, vae):
        seen: set[str] = set()
        entries = connection.zscan_iter(f"{rq_bridge.KEY_PREFIX}:failed:{queue}", count=PAGE)
        while page := [as_text(member) for member, _ in islice(entries, PAGE)]:
            # ZSCAN may give an entry twice.
            fresh = [job_id for job_id in dict.fromkeys(page) if job_id not in seen]
            seen.update(fresh)
            yield from _read_records(connection, queue, fresh)


def retry(connection: redis.Redis, job_id: str) -> bool:
    """Put a failed job back on its queue, with all its attempts; False where it has not failed.

    Raises:
        JobNotFound: no such job.
        JobExpired: its latent was not kept.
    """
    match transitions.retry(connection, job_id):
        case "":
            raise JobNotFound(f"job {job_id!r} is not known: no such id was submitted, or it is past its life")
        case "gone":
            raise JobExpired(f"job {job_id!r} cannot be retried: its latent is gone; submit it again")
        case status:
            # Queued also where the reply to an earlier call was lost.
            return bool(status == JobStatus.QUEUED)


def _queues(connection: redis.Redis, vae: str | None) -> list[str]:
    names = (as_text(key).removeprefix(rq_bridge.QUEUE_PREFIX) for key in connection.smembers(rq_bridge.QUEUES_KEY))
    return sorted(name for name in names if name.startswith("vaefarm.") and vae in (None, vae_of(name)))


def vae_of(queue: str) -> str:
    """The VAE that a queue of ours is for."""
    return queue.split(".")[1]


def _read_records(connection: redis.Redis, queue: str, job_ids: Sequence[str]) -> Iterator[FailedJob]:
    with connection.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hmget(keys.job(job_id), "status", "reason", "attempts", "ended_at")
        replies = pipe.execute()
    for job_id, (status, reason, attempts, ended_at) in zip(job_ids, replies, strict=True):
        # RQ's registry may still name a job whose record is past its life, or that was retried.
        if status == JobStatus.FAILED.encode():
            yield FailedJob(
                id=job_id,
                vae=vae_of(queue),
                reason=(reason or b"").decode("utf-8", "replace"),
                attempts=int(number(attempts) or 0),
                ended_at=number(ended_at),
            )
