"""Reading jobs: what anyone who polls may ask, each answer in one round trip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis
from pydantic import ValidationError
from rq.utils import as_text

from . import keys
from .catalogue import Contract
from .errors import FarmError, JobExpired, JobNotFound
from .job import ADMIN, JobSpec, JobStatus
from .leases import number
from .records import DecodeReport, JobRecord, Tombstone, blob_references
from .rq_bridge import QUEUE_PREFIX, QUEUES_KEY


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many jobs wait on a queue."""

    name: str
    queued: int


def read_statuses(connection: redis.Redis, job_ids: Sequence[str]) -> list[JobStatus | None]:
    """The status of each job; None for one that nobody knows."""
    with connection.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hget(keys.job(job_id), "status")
            pipe.exists(keys.tombstone(job_id))
        replies = pipe.execute()
    statuses: list[JobStatus | None] = []
    for status, tombstone in zip(replies[::2], replies[1::2], strict=True):
        if status is not None:
            statuses.append(_status(status))
        else:
            # The record lived out its life; the tombstone says that there was one.
            statuses.append(JobStatus.EXPIRED if tombstone else None)
    return statuses


def read_owned_statuses(connection: redis.Redis, job_ids: Sequence[str]) -> list[tuple[JobStatus, str] | None]:
    """The status and owner of each job; None for one that nobody knows."""
    with connection.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hmget(keys.job(job_id), "status", "owner")
            pipe.get(keys.tombstone(job_id))
        replies = pipe.execute()
    found: list[tuple[JobStatus, str] | None] = []
    for (status, owner), stone in zip(replies[::2], replies[1::2], strict=True):
        if status is not None:
            found.append((_status(status), ADMIN if owner is None else owner.decode("utf-8", "replace")))
        elif stone is not None:
            found.append((JobStatus.EXPIRED, Tombstone.model_validate_json(stone).owner))
        else:
            found.append(None)
    return found


def _status(raw: bytes) -> JobStatus:
    """A status of a release that this one does not know is of a job that has not ended, as far as we can tell."""
    try:
        return JobStatus(raw.decode("utf-8", "replace"))
    except ValueError:
        return JobStatus.STARTED


def read_status(connection: redis.Redis, job_id: str) -> JobStatus:
    """A job's status. Raises JobNotFound for one that nobody knows."""
    status = read_statuses(connection, [job_id])[0]
    if status is None:
        raise not_found(job_id)
    return status


def read_record(connection: redis.Redis, job_id: str) -> JobRecord:
    """A job's record; of a job past its life, what its tombstone says.

    Raises:
        JobNotFound: no such job.
    """
    with connection.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.job(job_id))
        pipe.get(keys.tombstone(job_id))
        raw, stone = pipe.execute()
    if raw:
        return _record(job_id, text(raw))
    if stone is None:
        raise not_found(job_id)
    left = Tombstone.model_validate_json(stone)
    reason = left.reason or f"it was {left.status.value}, and what was kept of it is past its life"
    return JobRecord(id=job_id, status=JobStatus.EXPIRED, reason=reason, owner=left.owner)


def _record(job_id: str, fields: dict[str, str]) -> JobRecord:
    spec: JobSpec | None
    try:
        spec = JobSpec.from_json(fields["spec"])
    except (KeyError, FarmError):
        # A job that no producer of this version wrote: its status and reason are known all the same.
        spec = None
    return JobRecord(
        id=job_id,
        status=_status(fields.get("status", "").encode()),
        reason=fields.get("reason"),
        last_error=fields.get("last_error"),
        vae=spec.vae if spec else None,
        queue=fields.get("queue"),
        queued_at=number(fields.get("queued_at")),
        started_at=number(fields.get("started_at")),
        ended_at=number(fields.get("ended_at")),
        attempts=int(number(fields.get("attempts")) or 0),
        worker=fields.get("worker"),
        owner=fields.get("owner", ADMIN),
        metadata=spec.metadata if spec else {},
        report=DecodeReport.model_validate_json(fields["report"]) if "report" in fields else None,
    )


def text(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """A hash of Redis as text; bytes that are no UTF-8 become replacement characters."""
    return {name.decode(): value.decode("utf-8", "replace") for name, value in raw.items()}


def read_contract(connection: redis.Redis, vae: str) -> Contract | None:
    """The contract that a worker published for a VAE, or None."""
    raw = connection.get(keys.contract(vae))
    if raw is None:
        return None
    try:
        return Contract.model_validate_json(raw)
    except ValidationError:
        # Some other version's: the producer's own catalogue decides.
        return None


def read_queues(connection: redis.Redis) -> list[QueueDepth]:
    """Every queue of ours that RQ knows, and its depth."""
    names = sorted(
        name
        for name in (as_text(key).removeprefix(QUEUE_PREFIX) for key in connection.smembers(QUEUES_KEY))
        if name.startswith("vaefarm.")
    )
    with connection.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(f"{QUEUE_PREFIX}{name}")
        return [QueueDepth(name, depth) for name, depth in zip(names, pipe.execute(), strict=True)]


def named_blobs(connection: redis.Redis, references: Sequence[str]) -> list[bool]:
    """For each blob reference, whether its job's record names it."""
    with connection.pipeline(transaction=False) as pipe:
        for reference in references:
            job_id = reference.partition(":")[2].partition(":")[2].partition(".")[0]
            pipe.hmget(keys.job(job_id), "latent", "report")
        replies = pipe.execute()
    named = []
    for reference, values in zip(references, replies, strict=True):
        fields = {name: value.decode() for name, value in zip(("latent", "report"), values, strict=True) if value}
        named.append(reference in blob_references(fields))
    return named


def not_found(job_id: str) -> JobNotFound:
    """The error for a job that nobody knows."""
    return JobNotFound(f"job {job_id!r} is not known: no such id was submitted, or its traces are past their life")


def expired(job_id: str, reason: str | None) -> JobExpired:
    """The error for a job whose result or deadline is past."""
    return JobExpired(f"job {job_id!r} has expired: {reason or 'its result is past its life'}; submit it again")
