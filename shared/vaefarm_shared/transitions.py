"""The transitions of a job's life, each one script in Redis that writes our record and RQ's side in one step.

The lease's token is the fence. A claim draws it; begin, settle and give back test it in the step that changes state,
so that a worker whose lease went to another changes nothing. Cancel takes the lease away.

A client never repeats a command by itself (`connection`). When the reply to a transition was lost, the caller repeats
the whole transition, whose script first reads back whether it happened.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from redis.client import Pipeline

from . import keys, rq_bridge
from .budget import Limits, full, quota_exceeded, too_large
from .errors import FarmError, FarmUnavailable, JobConflict
from .job import ADMIN, JobStatus
from .leases import Claim
from .reading import not_found
from .records import DecodeReport, blob_references
from .scripts import Argument, script
from .submissions import Submission, taken

#: Jobs that one call of a script ends: a call holds Redis for as long as it runs.
CALL_JOBS: Final[int] = 500

#: Bytes that Redis reads at a time (PROTO_IOBUF_LEN).
READ_BYTES: Final[int] = 16 * 1024

#: Seconds that a larger latent lies in Redis before its job is: the two travel together.
UNCLAIMED_SECONDS: Final[int] = 600

#: A begin's verdicts besides the number of the attempt.
LOST, EXPIRED = "lost", "expired"


def submit(
    connection: redis.Redis,
    submissions: Sequence[Submission],
    limits: Limits | None = None,
    quota: int | None = None,
) -> list[JobStatus]:
    """Put jobs on their queues in one round trip; return how each stands now.

    Repeating it changes nothing: a job of the same id and content is left as it is, unless it failed, was canceled
    or has expired, which begins a new attempt.

    Args:
        quota: Jobs that have not ended which each owner but the admin may have; None for any number.

    Raises:
        JobConflict: an id was used for other content.
        JobNotFound: an id is another owner's, and the submitter is not the admin: nothing else is told of it.
        QueueFull: the farm takes no more just now; those before the first that was refused are queued.
        InvalidInput: a job holds more than the farm ever may; others may be queued.
        QuotaExceeded: nor of this owner; as with QueueFull.
    """
    return taken(submit_each(connection, submissions, limits, quota))


def submit_each(
    connection: redis.Redis,
    submissions: Sequence[Submission],
    limits: Limits | None = None,
    quota: int | None = None,
) -> list[JobStatus | FarmError]:
    """As `submit`, whatever becomes of the others: for each job how it stands now, or why it was not taken."""
    limits = limits or Limits()
    replies = _sent(connection, submissions, limits, quota)
    verdicts: list[JobStatus | FarmError] = []
    refused: FarmError | None = None
    for job, (verdict, status, *more) in zip(submissions, replies, strict=True):
        if verdict == b"quota":
            refused = refused or quota_exceeded(connection, job.spec.owner, int(status))
            verdicts.append(refused)
        elif verdict == b"full" and (never := too_large(job, limits)) is not None:
            verdicts.append(never)
        elif verdict == b"full":
            refused = refused or full(connection, limits, status.decode(), int(more[0]))
            verdicts.append(refused)
        else:
            verdicts.append(_refusal(job.spec.id, verdict, status.decode()) or JobStatus(status.decode()))
    return verdicts


def _refusal(job_id: str, verdict: bytes, status: str) -> FarmError | None:
    if verdict == b"gone":
        return FarmUnavailable(f"the latent of job {job_id!r} is not where it was written; submit it again")
    if verdict == b"foreign":
        return not_found(job_id)
    if verdict == b"conflict":
        return JobConflict(
            f"job id {job_id!r} was used for other latents or options ({status}); take another id, or discard that job"
        )
    return None


def _sent(
    connection: redis.Redis, submissions: Sequence[Submission], limits: Limits, quota: int | None
) -> list[list[Any]]:
    """What the script answers for each of the jobs."""
    submitting, date = script("submit"), rq_bridge.date()
    if len(submissions) == 1 and submissions[0].is_carried:
        return [submitting.run(connection, *_submit_arguments(submissions[0], limits, quota, date))]

    def fill(pipe: Pipeline) -> None:
        for job in submissions:
            if not job.is_carried:
                # Never over one that is there: that of a job which waits has no end.
                pipe.set(keys.blob(job.latent_name), job.latent_bytes, nx=True, ex=UNCLAIMED_SECONDS)
            submitting.queue(pipe, *_submit_arguments(job, limits, quota, date))

    with connection.pipeline(transaction=_needs_one_sync(len(job.latent_bytes) for job in submissions)) as pipe:
        return [reply for reply in submitting.execute(pipe, fill) if isinstance(reply, list)]


def _submit_arguments(job: Submission, limits: Limits, quota: int | None, date: str) -> list[Argument]:
    spec = job.spec
    return [
        *(spec.id, spec.request_hash, spec.to_json(), job.queue, job.latent_reference),
        *(job.held_bytes, spec.pixels, spec.result_seconds, spec.failure_seconds, limits.max_bytes, limits.max_jobs),
        *(rq_bridge.encoded_call(), date, "" if spec.owner == ADMIN else spec.owner),
        *("" if quota is None else quota, spec.webhook or ""),
        job.latent_bytes if job.is_carried else b"",
        *(() if job.preview is None else _preview_arguments(job.preview)),
    ]


def _preview_arguments(preview: Submission) -> list[Argument]:
    spec = preview.spec
    return [spec.id, spec.request_hash, spec.to_json(), preview.queue, preview.latent_reference, preview.held_bytes]


def adopt(connection: redis.Redis, claim: Claim, job: Submission) -> bool:
    """Move a plain RQ job to the queue that its spec names; False when the claim was lost."""
    spec = job.spec
    reply = script("adopt").run(
        connection,
        *(claim.job_id, claim.token, spec.request_hash, spec.to_json(), job.queue, job.latent_reference),
        *(job.held_bytes, spec.pixels, spec.result_seconds, spec.failure_seconds),
        *(rq_bridge.encoded_call(), spec.webhook or ""),
    )
    return bool(reply == b"adopted")


def begin(
    connection: redis.Redis, claims: Sequence[tuple[Claim, float | None]], worker_name: str, *, shared: bool
) -> list[int | str]:
    """Write that the decode of a batch begins, in one round trip.

    Args:
        claims: Each job's claim, and the seconds after its submit by which it must begin.
        shared: Whether several jobs share the device: should it die, none of them is to blame.

    Returns:
        For each job the number of its attempt, from 1; LOST when it is another's or was canceled; EXPIRED.
    """
    arguments: list[Argument] = [worker_name, rq_bridge.date(), "1" if shared else ""]
    for claim, deadline in claims:
        arguments += [claim.job_id, claim.token, claim.execution, "" if deadline is None else deadline]
    reply = script("begin").run(connection, *arguments)
    return [verdict.decode() if isinstance(verdict, bytes) else int(verdict) for verdict in reply]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a claimed job ended."""

    claim: Claim
    status: JobStatus
    worker_name: str
    reason: str = ""
    report: DecodeReport | None = None
    #: Device seconds beyond what the claim charged to the job's lane.
    extra_seconds: float = 0.0
    #: Device seconds of the job, which teach what one like it takes; None where it was not decoded.
    device_seconds: float | None = None
    #: Whether no decode was tried: an attempt that began with the claim does not count.
    untried: bool = False
    #: Pictures to write to Redis first: key, bytes, seconds that they live.
    files: Sequence[tuple[str, bytes, int]] = field(default=())


def settle(connection: redis.Redis, outcomes: Sequence[Outcome]) -> list[bool]:
    """Write jobs' outcomes in one round trip: pictures, records, RQ's side, tombstones, the word to those who wait.

    Returns:
        For each whether it took effect; False when the job is another's or was canceled: nothing was changed.

    Raises:
        redis.OutOfMemoryError: Redis had no room for a picture. What else took effect may be repeated.
    """
    settling, date = script("settle"), rq_bridge.date()

    def fill(pipe: Pipeline) -> None:
        for outcome in outcomes:
            for key, data, seconds in outcome.files:
                pipe.set(key, data, ex=seconds)
            settling.queue(pipe, *_settle_arguments(outcome, date))

    sizes = (len(data) for outcome in outcomes for _, data, _ in outcome.files)
    with connection.pipeline(transaction=_needs_one_sync(sizes)) as pipe:
        replies = settling.execute(pipe, fill)
    verdicts = []
    place = 0
    for outcome in outcomes:
        place += len(outcome.files) + 1
        verdict = replies[place - 1]
        if verdict == b"gone":
            raise redis.OutOfMemoryError(f"a picture of job {outcome.claim.job_id} is not where it was written")
        verdicts.append(verdict == b"settled")
    return verdicts


def _settle_arguments(outcome: Outcome, date: str) -> list[Argument]:
    claim, report = outcome.claim, outcome.report
    failed = outcome.status is JobStatus.FAILED
    pictures = (*report.images, *report.videos) if report is not None else ()
    stored = report.stored if report is not None else ()
    return [
        *(claim.job_id, claim.token, outcome.status.value, outcome.worker_name, outcome.reason),
        "" if report is None else report.to_json(),
        outcome.extra_seconds,
        date,
        rq_bridge.encoded_result(len(pictures)),
        rq_bridge.encoded_reason(outcome.reason) if failed else "",
        rq_bridge.encoded_call() if failed else "",
        rq_bridge.date(claim.queued_at) if failed else "",
        "" if outcome.device_seconds is None else outcome.device_seconds,
        "1" if outcome.untried else "",
        *(one.blob for one in stored),
    ]


def _needs_one_sync(sizes: Iterable[int]) -> bool:
    """Whether blobs and scripts must travel as one transaction.

    A Redis that syncs each write would sync after a blob that fills its read buffer, and again after the script.
    """
    return any(size > READ_BYTES for size in sizes)


def cancel(connection: redis.Redis, job_id: str, reason: str = "canceled") -> JobStatus | None:
    """End a job that has not ended and take it off its queue; return its status afterwards, None if there is no such.

    A worker that holds it loses its lease and changes nothing more.
    """
    return _statuses(script("cancel").run(connection, reason, "1", job_id))[0]


def cancel_many(connection: redis.Redis, job_ids: Sequence[str], reason: str = "canceled") -> list[JobStatus | None]:
    """As `cancel` for many: their entries stay in the queues until they are claimed, and are dropped then."""
    statuses: list[JobStatus | None] = []
    for start in range(0, len(job_ids), CALL_JOBS):
        statuses += _statuses(script("cancel").run(connection, reason, "", *job_ids[start : start + CALL_JOBS]))
    return statuses


def retry(connection: redis.Redis, job_id: str) -> str:
    """Queue a failed job anew, its attempts forgotten.

    Returns:
        'queued'; else why not: its status, '' when there is no such job, 'gone' when its latent was not kept.
    """
    return str(script("retry").run(connection, job_id).decode())


def discard(connection: redis.Redis, job_id: str) -> list[str] | None:
    """Remove an ended job's record; return the references of its blobs, None when there is none that has ended.

    Its tombstone stays, that of a finished job for a minute: the id is expired, not unknown, for that long.
    """
    reply = script("discard").run(connection, job_id)
    if reply is None:
        return None
    latent, report = (part.decode() for part in reply)
    return blob_references({"latent": latent, "report": report})


def _statuses(reply: Sequence[bytes]) -> list[JobStatus | None]:
    return [JobStatus(status.decode()) if status else None for status in reply]
