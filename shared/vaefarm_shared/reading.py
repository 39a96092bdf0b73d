"""Reading jobs: what anyone who polls may ask, each answer in one round trip, or two for a job past its life."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis
from pydantic import ValidationError
from redis.client import Pipeline
from rq.worker_registration import REDIS_WORKER_KEYS

from . import keys
from .blob_names import job_of, token_of
from .catalogue import Contract
from .errors import FarmError, JobExpired, JobNotFound
from .events import status_of
from .job import ADMIN, JobSpec, JobStatus
from .leases import number
from .pace import Backlog, backlog, eta_seconds, read_pace
from .queues import parts_of, size_of
from .records import DecodeReport, JobRecord, Tombstone, blob_references
from .rq_bridge import QUEUE_PREFIX, QUEUES_KEY
from .scripts import script
from .told import text_of, without_kinds
from .workers import describe_workers, holders

#: How a job has ended that needs its latent no more: a failed one keeps it, for a retry.
LATENT_GOES: Final = frozenset({JobStatus.FINISHED.value, JobStatus.CANCELED.value, JobStatus.EXPIRED.value})


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many jobs wait on a queue."""

    name: str
    queued: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A job's record, and of one that waits how long it still will."""

    record: JobRecord
    #: 1 for the first of its queue; None where it waits on none: a worker holds it, it has ended, or the release before
    #: queued it.
    position: int | None = None
    #: Jobs of that queue, its own too.
    queued: int | None = None
    #: Seconds until its decode should be over; None where nothing tells: no worker serves it, none like it was decoded
    #: yet, or its VAE is paused.
    eta_seconds: float | None = None


def read_statuses(connection: redis.Redis, job_ids: Sequence[str]) -> list[JobStatus | None]:
    """The status of each job; None for one that nobody knows."""
    # A pipeline of as many commands takes a client ten times as long.
    replies = script("statuses").run(connection, *job_ids)
    return [status_of(status) if status else None for status in replies]


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
            found.append((status_of(status), ADMIN if owner is None else text_of(owner)))
        elif stone is not None:
            found.append((JobStatus.EXPIRED, _tombstone(stone).owner))
        else:
            found.append(None)
    return found


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
    raw: dict[bytes, bytes] = connection.hgetall(keys.job(job_id))  # type: ignore[assignment]
    if raw:
        return _record(job_id, raw)
    with connection.pipeline(transaction=False) as pipe:
        # The record once more: the id may have been submitted anew, and then has no tombstone.
        pipe.hgetall(keys.job(job_id))
        pipe.get(keys.tombstone(job_id))
        return _found(job_id, *pipe.execute())


def read_records(connection: redis.Redis, job_ids: Sequence[str]) -> Iterator[JobRecord | None]:
    """The record of each job, all in one round trip, each made out as it is taken; None for one that has none."""
    with connection.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hgetall(keys.job(job_id))
        replies = pipe.execute()
    return (_record(job_id, raw) if raw else None for job_id, raw in zip(job_ids, replies, strict=True))


def _found(job_id: str, raw: dict[bytes, bytes], stone: bytes | None) -> JobRecord:
    if raw:
        return _record(job_id, raw)
    if stone is None:
        raise not_found(job_id)
    left = _tombstone(stone)
    reason = left.reason or f"it was {left.status.value}, and what was kept of it is past its life"
    return JobRecord(id=job_id, status=JobStatus.EXPIRED, reason=reason, owner=left.owner)


def _tombstone(raw: bytes) -> Tombstone:
    """What is left of a job; of one whose traces somebody garbled, that there was one."""
    try:
        return Tombstone.model_validate_json(raw)
    except ValidationError:
        return Tombstone(status=JobStatus.EXPIRED, request_hash="", reason="what is left of it cannot be read")


def read_standing(connection: redis.Redis, job_id: str) -> Standing:
    """How a job stands, in one round trip, or two for one that is queued. Raises JobNotFound."""
    (found,) = read_standings(connection, [job_id])
    if isinstance(found, JobNotFound):
        raise found
    return found


def read_standings(connection: redis.Redis, job_ids: Sequence[str]) -> list[Standing | JobNotFound]:
    """How each job stands, or that nobody knows it, in two round trips at most."""
    asking = script("standing")

    def fill(pipe: Pipeline) -> None:
        pipe.smembers(REDIS_WORKER_KEYS)
        for job_id in job_ids:
            pipe.hgetall(keys.job(job_id))
            pipe.get(keys.tombstone(job_id))
            asking.queue(pipe, job_id)

    with connection.pipeline(transaction=False) as pipe:
        names, *replies = asking.execute(pipe, fill)
    workers: list[dict[str, Any]] | None = None
    found: list[Standing | JobNotFound] = []
    for job_id, raw, stone, waits in zip(job_ids, replies[::3], replies[1::3], replies[2::3], strict=True):
        try:
            record = _found(job_id, raw, stone)
        except JobNotFound as error:
            found.append(error)
            continue
        if record.status is not JobStatus.QUEUED or waits is None:
            found.append(Standing(record))
            continue
        if workers is None:
            workers = describe_workers(connection, names)
        found.append(_waiting(record, waits, workers))
    return found


def _waiting(record: JobRecord, waits: Sequence[Any], workers: list[dict[str, Any]]) -> Standing:
    place, queued, paused, flat_queues, flat_paces = waits
    position = None if place == b"" else int(place)
    if position is None or paused == b"1":
        return Standing(record, position, queued)
    queue = record.queue or ""
    queues = [(name.decode(), int(depth)) for name, depth in _pairs(flat_queues)]
    paces = {size.decode(): known for size, pace in _pairs(flat_paces) if (known := number(pace)) is not None}
    able = holders(workers, parts_of(queue)[0], size_of(queue))
    return Standing(record, position, queued, eta_seconds(position, queue, queues, paces, len(able)))


def _pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _record(job_id: str, raw: Mapping[bytes, bytes]) -> JobRecord:
    fields = text(raw)
    spec: JobSpec | None
    try:
        spec = JobSpec.from_json(fields["spec"])
    except (KeyError, FarmError):
        # A job that no producer of this version wrote: its status and reason are known all the same.
        spec = None
    return JobRecord(
        id=job_id,
        status=status_of(fields.get("status", "").encode()),
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
        report=_report(fields.get("report")),
    )


def _report(raw: str | None) -> DecodeReport | None:
    """A job's report; None where there is none, or it cannot be read."""
    try:
        return None if raw is None else DecodeReport.model_validate_json(raw)
    except ValidationError:
        return None


def text(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """A hash of Redis as text; bytes that are no UTF-8 become replacement characters."""
    return {text_of(name): text_of(value) for name, value in raw.items()}


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
        for name in (text_of(key).removeprefix(QUEUE_PREFIX) for key in connection.smembers(QUEUES_KEY))
        if name.startswith("vaefarm.")
    )
    with connection.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(f"{QUEUE_PREFIX}{name}")
        depths = without_kinds(pipe.execute(raise_on_error=False))
    return [QueueDepth(name, depth or 0) for name, depth in zip(names, depths, strict=True)]


def read_backlog(connection: redis.Redis) -> dict[str, Backlog]:
    """What waits for each VAE that has queues, in three round trips, however many jobs there are."""
    depths = read_queues(connection)
    return backlog(((queue.name, queue.queued) for queue in depths), read_pace(connection))


def named_blobs(connection: redis.Redis, references: Sequence[str]) -> list[bool]:
    """For each blob reference, whether it is needed.

    Its job's record names it, but for the latent of a job that is finished, canceled or expired; or it is a picture of
    the worker that holds the job, whose settle will name it however long Redis was away or full.
    A record that nobody can read may name anything.
    """
    with connection.pipeline(transaction=False) as pipe:
        for reference in references:
            job_id = job_of(reference.partition(":")[2])
            # The lease first: a settle between the two is then seen by what it wrote.
            pipe.get(keys.lease(job_id))
            pipe.hmget(keys.job(job_id), "latent", "report", "status")
        replies = pipe.execute()
    named = []
    for reference, lease, (latent, report, status) in zip(references, replies[::2], replies[1::2], strict=True):
        kept = {"latent": latent} if status is None or status.decode("utf-8", "replace") not in LATENT_GOES else {}
        is_held = lease is not None and token_of(reference) == lease.decode("utf-8", "replace")
        try:
            fields = {name: value.decode() for name, value in (kept | {"report": report}).items() if value}
            named.append(is_held or reference in blob_references(fields))
        except ValueError:
            named.append(True)
    return named


def canceled_latents(connection: redis.Redis, job_ids: Sequence[str]) -> list[str]:
    """The references of the latents of those jobs that are canceled."""
    with connection.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hmget(keys.job(job_id), "status", "latent")
        replies = pipe.execute()
    return [latent.decode() for status, latent in replies if status == b"canceled" and latent]


def not_found(job_id: str) -> JobNotFound:
    """The error for a job that nobody knows."""
    return JobNotFound(f"job {job_id!r} is not known: no such id was submitted, or its traces are past their life")


def expired(job_id: str, reason: str | None) -> JobExpired:
    """The error for a job whose result or deadline is past."""
    return JobExpired(f"job {job_id!r} has expired: {reason or 'its result is past its life'}; submit it again")
