"""The transitions of a job's life, each one step in Redis.

The lease's token is the fence. A claim draws it; begin, settle, give back, cancel and reap test it in the step that
changes state (WATCH of the lease, then MULTI), so that a worker whose lease went to another changes nothing.

A client never repeats a command by itself (`connection`). When the reply to a transition was lost, the caller
repeats the whole transition, which first reads back whether it happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.client import Pipeline

from . import keys, rq_bridge
from .errors import JobConflict, LeaseLost
from .fence import Claim, Held, fenced, read
from .job import TERMINAL_STATUSES, TOMBSTONE_SECONDS, DecodeReport, JobSpec, JobStatus, Tombstone
from .queues import queue_name
from .scripts import script


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked job on its way to its queue."""

    spec: JobSpec
    latent_reference: str
    #: The latent's bytes where Redis keeps them; empty where they were stored before.
    latent_bytes: bytes

    @property
    def queue(self) -> str:
        """The queue it goes to."""
        spec = self.spec
        return queue_name(spec.vae, spec.priority, spec.height * spec.width, spec.producer)


def submit(connection: redis.Redis, submissions: Sequence[Submission]) -> list[JobStatus]:
    """Put jobs on their queues in one round trip; return how each stands now.

    Repeating it changes nothing: a job of the same id and content is left as it is, unless it failed, was canceled
    or has expired, which begins a new attempt.

    Raises:
        JobConflict: an id was used for other content.
    """
    replies = script("submit").run_many(connection, [_submit_call(connection, job) for job in submissions])
    statuses = []
    for job, (verdict, status) in zip(submissions, replies, strict=True):
        if verdict == b"conflict":
            raise JobConflict(
                f"job id {job.spec.id!r} was used for other latents or options ({status.decode()});"
                " take another id, or discard that job"
            )
        statuses.append(JobStatus(status.decode()))
    return statuses


def _submit_call(connection: redis.Redis, job: Submission) -> tuple[list[str], list[str | bytes | int | float]]:
    spec, queue = job.spec, job.queue
    rq_job = _rq_job(connection, spec.id, queue, (spec.result_seconds, spec.failure_seconds))
    key_names = [
        keys.job(spec.id),
        keys.tombstone(spec.id),
        keys.lease(spec.id),
        rq_job.key,
        rq_bridge.QUEUES_KEY,
        rq_bridge.queue_key(queue),
        keys.queue_index(spec.vae, spec.priority),
        keys.blob(job.latent_reference.partition(":")[2]),
    ]
    head: list[str | bytes | int | float] = [
        spec.id,
        spec.request_hash,
        spec.to_json(),
        queue,
        job.latent_reference,
    ]
    return key_names, [
        *head,
        job.latent_bytes,
        keys.doorbell(spec.vae),
        rq_bridge.KEY_PREFIX,
        *rq_bridge.hash_fields(rq_job),
    ]


def begin(connection: redis.Redis, job: Claim, worker_name: str) -> int:
    """Write that the job's decode begins; return the number of this attempt, from 1.

    Raises:
        LeaseLost: the job is another's, or was canceled.
    """

    def write(pipe: Pipeline, held: Held) -> int:
        if held.fields.get("started_with") == job.token:
            return held.attempts
        attempt = held.attempts + 1
        execution = rq_bridge.begin(pipe, _rq_job_of(connection, job.job_id, job.queue, held), worker_name)
        fields: dict[Any, Any] = {
            "status": JobStatus.STARTED,
            "started_at": held.now,
            "attempts": attempt,
            "worker": worker_name,
            "execution": execution,
            "started_with": job.token,
        }
        pipe.hset(keys.job(job.job_id), mapping=fields)
        return attempt

    return fenced(connection, job, write)


def settle(
    connection: redis.Redis,
    job: Claim,
    status: JobStatus,
    *,
    worker_name: str,
    report: DecodeReport | None = None,
    reason: str | None = None,
) -> None:
    """Write a job's outcome: its record, RQ's side, its tombstone, and the word to those who wait.

    Raises:
        LeaseLost: the job is another's, or was canceled: nothing was changed.
    """

    def write(pipe: Pipeline, held: Held) -> None:
        rq_job = _rq_job_of(connection, job.job_id, job.queue, held)
        if status is JobStatus.FINISHED and held.execution:
            summary = {"status": status.value, "images": len(report.images) if report else 0}
            rq_bridge.finish(pipe, rq_job, held.execution, worker_name, summary)
        elif status is JobStatus.FAILED:
            rq_bridge.fail(pipe, rq_job, held.execution, worker_name, reason or "")
        else:
            rq_bridge.cancel(pipe, rq_job, held.execution, worker_name, held.lives[0])
        extra = {"token": job.token}
        if report is not None:
            extra["report"] = report.model_dump_json()
        _end(pipe, job.job_id, held, status, reason, extra)

    try:
        fenced(connection, job, write)
    except LeaseLost:
        # The reply to an earlier try may have been lost after it took effect.
        if connection.hget(keys.job(job.job_id), "token") != job.token.encode():
            raise


def give_back(connection: redis.Redis, job: Claim, worker_name: str) -> None:
    """Return a job to the front of its queue; an attempt that has begun counts.

    Raises:
        LeaseLost: the job is another's already.
    """

    def write(pipe: Pipeline, held: Held) -> None:
        rq_bridge.give_back(pipe, _rq_job_of(connection, job.job_id, job.queue, held), held.execution, worker_name)
        _requeue(pipe, job.job_id, job.queue)

    fenced(connection, job, write)


def cancel(connection: redis.Redis, job_id: str, reason: str = "canceled") -> JobStatus | None:
    """End a job that has not ended; return its status afterwards, None when there is no such job.

    A worker that holds it loses its lease and changes nothing more.
    """
    while True:
        with connection.pipeline() as pipe:
            try:
                pipe.watch(keys.job(job_id), keys.lease(job_id))
                held = read(pipe, job_id)
                if held.status is None or held.status in TERMINAL_STATUSES:
                    return held.status
                pipe.multi()
                rq_job = _rq_job_of(connection, job_id, held.fields["queue"], held)
                rq_bridge.cancel(pipe, rq_job, held.execution, held.fields.get("worker", ""), held.lives[0])
                _end(pipe, job_id, held, JobStatus.CANCELED, reason, {})
                pipe.execute()
                return JobStatus.CANCELED
            except redis.WatchError:
                continue


def discard(connection: redis.Redis, job_id: str) -> list[str] | None:
    """Remove an ended job's record; return the references of its blobs, None when there is no such job.

    Its tombstone stays: the id is expired, not unknown.
    """
    while True:
        with connection.pipeline() as pipe:
            try:
                pipe.watch(keys.job(job_id))
                held = read(pipe, job_id)
                if not held.fields:
                    return None
                stone = Tombstone(
                    status=JobStatus.EXPIRED,
                    request_hash=held.fields.get("request_hash", ""),
                    reason="discarded",
                )
                pipe.multi()
                pipe.set(keys.tombstone(job_id), stone.model_dump_json(), ex=TOMBSTONE_SECONDS)
                rq_bridge.forget(pipe, _rq_job_of(connection, job_id, held.fields.get("queue", ""), held))
                pipe.delete(keys.job(job_id))
                pipe.execute()
                return blob_references(held.fields)
            except redis.WatchError:
                continue


def blob_references(fields: dict[str, str]) -> list[str]:
    """Every blob that a record names."""
    references = [fields["latent"]] if "latent" in fields else []
    if "report" in fields:
        references += [image.blob for image in DecodeReport.model_validate_json(fields["report"]).images]
    return references


def _end(pipe: Pipeline, job_id: str, held: Held, status: JobStatus, reason: str | None, extra: dict[str, Any]) -> None:
    result_seconds, failure_seconds = held.lives
    life = failure_seconds if status is JobStatus.FAILED else result_seconds
    fields: dict[Any, Any] = {"status": status, "ended_at": held.now, **extra}
    if reason is not None:
        fields["reason"] = reason
    pipe.hset(keys.job(job_id), mapping=fields)
    pipe.hdel(keys.job(job_id), "execution", "started_with")
    pipe.expire(keys.job(job_id), life)
    stone = Tombstone(status=status, request_hash=held.fields.get("request_hash", ""), reason=reason)
    pipe.set(keys.tombstone(job_id), stone.model_dump_json(), ex=life + TOMBSTONE_SECONDS)
    scheme, _, name = held.fields.get("latent", "").partition(":")
    if scheme == "redis" and status is JobStatus.FAILED:
        # Kept for inspection and for another try.
        pipe.expire(keys.blob(name), life)
    elif scheme == "redis":
        pipe.delete(keys.blob(name))
    pipe.delete(keys.lease(job_id))
    pipe.zrem(keys.LEASES, job_id)
    pipe.publish(keys.done(job_id), status)


def _requeue(pipe: Pipeline, job_id: str, queue: str) -> None:
    pipe.hset(keys.job(job_id), "status", JobStatus.QUEUED)
    pipe.hdel(keys.job(job_id), "execution", "started_with")
    pipe.delete(keys.lease(job_id))
    pipe.zrem(keys.LEASES, job_id)
    parts = queue.split(".")
    if len(parts) == 5:
        pipe.zadd(keys.queue_index(parts[1], parts[2]), {queue: 0}, nx=True)
    pipe.publish(keys.doorbell(parts[1]), queue)


def _rq_job_of(connection: redis.Redis, job_id: str, queue: str, held: Held) -> Any:
    return _rq_job(connection, job_id, queue, held.lives, held.queued_at)


def _rq_job(
    connection: redis.Redis, job_id: str, queue: str, lives: tuple[int, int], queued_at: float | None = None
) -> Any:
    return rq_bridge.build_job(
        connection, job_id, queue, result_seconds=lives[0], failure_seconds=lives[1], queued_at=queued_at
    )
