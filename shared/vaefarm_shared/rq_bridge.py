"""RQ's own data, written by RQ's own code: the one module that makes RQ's private calls (`rq~=3.0`).

A job of ours is an RQ job too: RQ's lists, hashes and registries show it, `rq info` counts it. It has no argument,
since its id says all: the fields of its hash stay short enough for Redis to keep them packed. RQ's JSON serializer is
the only one used. Nothing here reads an RQ job by `Job.fetch`, which would decompress and deserialize what anyone may
have written: a job is rebuilt from our record, and RQ's hash is only compared (`refusal`).
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import redis
from redis.client import Pipeline
from rq import Retry
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import as_text, utcformat

#: The function that a job names: a wire contract. No worker of ours imports a name found in Redis.
JOB_FUNCTION: Final[str] = "vaefarm_worker.tasks.decode"

#: Seconds that RQ believes an execution may take. `rq info` runs RQ's cleanup, which would fail live jobs whose
#: score is past; our own leases notice the dead, so RQ's score lies far ahead.
EXECUTION_SECONDS: Final[int] = 7 * 24 * 3600

#: Retries that RQ's cleanup would find: a second line, should anything ever end up there.
RQ_RETRIES: Final[int] = 3

#: Bytes of RQ's `data` and `meta` fields above which a job cannot be ours.
MAX_FIELD_BYTES: Final[int] = 32 * 1024

#: Bytes of what they may unpack to: a plain RQ job carries its spec, and that its metadata.
MAX_CALL_BYTES: Final[int] = 256 * 1024

QUEUE_PREFIX: Final[str] = Queue.redis_queue_namespace_prefix
QUEUES_KEY: Final[str] = Queue.redis_queues_keys
KEY_PREFIX: Final[str] = RQ_KEY_PREFIX
SUSPENDED_KEY: Final[str] = WORKERS_SUSPENDED


def job_key(job_id: str) -> str:
    """RQ's hash of a job."""
    return f"{Job.redis_job_namespace_prefix}{job_id}"


def worker_key(name: str) -> str:
    """RQ's hash of a worker."""
    return f"{KEY_PREFIX}:worker:{name}"


def queue_key(queue: str) -> str:
    """RQ's list of a queue."""
    return f"{QUEUE_PREFIX}{queue}"


def build_job(
    connection: redis.Redis,
    job_id: str,
    queue: str,
    *,
    result_seconds: int,
    failure_seconds: int,
    queued_at: float | None = None,
) -> Job:
    """The RQ job that stands for one of ours, built anew from what our record says."""
    job = Job.create(
        JOB_FUNCTION,
        id=job_id,
        origin=queue,
        connection=connection,
        serializer=JSONSerializer,
        result_ttl=result_seconds,
        failure_ttl=failure_seconds,
        timeout=EXECUTION_SECONDS,
        description=f"vaefarm decode {job_id}",
        retry=Retry(max=RQ_RETRIES),
        status=JobStatus.QUEUED,
    )
    job.created_at = job.enqueued_at = _date(queued_at)
    return job


def hash_fields(job: Job) -> list[str | bytes | int | float]:
    """RQ's hash of a job as a flat list of fields and values, for HSET."""
    flat: list[str | bytes | int | float] = []
    for field, value in job.to_dict().items():
        flat += [field, value]
    return flat


def refusal(data_bytes: int, meta_bytes: int, data: bytes | None, hooks: Sequence[object]) -> str | None:
    """Why an RQ job must not be run, or None. Nothing in it is unpickled or imported."""
    if data_bytes > MAX_FIELD_BYTES or not data:
        return f"its RQ data has {data_bytes} bytes; a job of vaefarm has a few"
    if data == encoded_call() and not meta_bytes and not any(hooks):
        return None
    if meta_bytes:
        return "it carries RQ meta, which vaefarm never writes and never deserializes"
    if any(hooks):
        return (
            "it carries RQ callbacks or webhooks, which vaefarm does not run: wait for the job, or give a plain RQ"
            " job depends_on it"
        )
    call = read_call(data)
    if call is None:
        return "its RQ data is not JSON; vaefarm never unpickles"
    if call != [JOB_FUNCTION, None, [], {}]:
        name = call[0] if isinstance(call, list) and call else call
        return f"it names {str(name)[:100]!r}; only {JOB_FUNCTION} without arguments is run"
    return None


def plain_argument(data: bytes | None) -> dict[str, Any] | None:
    """The spec that a plain RQ job of our kind carries as its one argument, or None."""
    call = read_call(data) if data else None
    if isinstance(call, list) and len(call) == 4 and call[:2] == [JOB_FUNCTION, None] and call[3] == {}:
        arguments = call[2]
        if isinstance(arguments, list) and len(arguments) == 1 and isinstance(arguments[0], dict):
            return arguments[0]
    return None


def read_call(data: bytes) -> Any:
    """What RQ's `data` calls, read as JSON; None when it is none."""
    try:
        inflater = zlib.decompressobj()
        return json.loads(inflater.decompress(data, MAX_CALL_BYTES))
    except (zlib.error, ValueError):
        return None


@cache
def encoded_call() -> bytes:
    """RQ's `data` of a job of ours: the call of its function, as RQ's job writes it."""
    return zlib.compress(JSONSerializer.dumps((JOB_FUNCTION, None, [], {})))


@cache
def encoded_result(images: int) -> str:
    """RQ's return value of a finished job."""
    return b64encode(JSONSerializer.dumps({"status": "finished", "images": images})).decode()


def encoded_reason(reason: str) -> str:
    """RQ's exception text of a failed job."""
    return b64encode(zlib.compress(reason.encode())).decode()


def date(seconds: float | None = None) -> str:
    """A time as RQ writes it; now, unless given as Unix seconds."""
    return utcformat(_date(seconds))


def begin(pipe: Pipeline, job: Job, worker_name: str) -> str:
    """Write that an execution of the job begins, as RQ's worker does; return the execution's id."""
    execution = Execution.create(job, EXECUTION_SECONDS, pipe, worker_name)
    job.prepare_for_execution(worker_name, pipe)
    pipe.persist(job.key)
    return execution.id


def finish(pipe: Pipeline, job: Job, execution_id: str, worker_name: str) -> None:
    """Write RQ's success: status, result, finished registry."""
    job._result = {}  # a stand-in: the script puts in what `encoded_result` wrote
    job.ended_at = datetime.now(UTC)
    assert job.result_ttl is not None
    job._handle_success(job.result_ttl, pipeline=pipe, worker_name=worker_name, execution_id=execution_id)
    job.cleanup(job.result_ttl, pipeline=pipe, remove_from_queue=False)
    end_execution(pipe, job, execution_id, worker_name)


def fail(pipe: Pipeline, job: Job, execution_id: str | None, worker_name: str) -> None:
    """Write RQ's failure: status, reason, failed registry. RQ's meta, data and callbacks are replaced
    by our own, so that nobody who opens the failed job later unpickles what an outsider left there."""
    job.ended_at = datetime.now(UTC)
    pipe.hdel(job.key, "meta", "webhooks")
    job.set_status(JobStatus.FAILED, pipeline=pipe)
    job._handle_failure("", pipeline=pipe, worker_name=worker_name, execution_id=execution_id)
    end_execution(pipe, job, execution_id, worker_name)


def cancel(pipe: Pipeline, job: Job, life_seconds: int) -> None:
    """Write RQ's status canceled, and give the job a life. Its list entry is dropped when it is claimed.

    RQ's canceled registry is left alone: RQ never cleans it, so it would grow without end.
    """
    job.set_status(JobStatus.CANCELED, pipeline=pipe)
    pipe.expire(job.key, life_seconds)


def requeue(pipe: Pipeline, job: Job) -> None:
    """Write RQ's status queued, for a job that waits again."""
    job.set_status(JobStatus.QUEUED, pipeline=pipe)
    pipe.persist(job.key)
    pipe.zrem(job.failed_job_registry.key, job.id)


def forget(pipe: Pipeline, job: Job) -> None:
    """Remove every trace that RQ keeps of an ended job."""
    for registry in (job.finished_job_registry, job.failed_job_registry):
        pipe.zrem(registry.key, job.id)
    pipe.delete(job.key, job.dependents_key, job.dependencies_key, f"{KEY_PREFIX}:results:{job.id}")


def end_execution(pipe: Pipeline, job: Job, execution_id: str | None, worker_name: str) -> None:
    """Remove the execution from RQ's registries, where there is one."""
    if execution_id is not None:
        Execution(execution_id, job.id, job.connection, worker_name).delete(job, pipe)


def enqueue_dependents(connection: redis.Redis, job_id: str, queue: str) -> None:
    """Queue the plain RQ jobs that `depends_on` a job which has ended, as RQ's worker does."""
    job = Job(job_id, connection=connection, serializer=JSONSerializer)
    job.origin = queue
    Queue(queue, connection=connection, serializer=JSONSerializer).enqueue_dependents(job)


def clean_registries(connection: redis.Redis) -> None:
    """Drop what has expired from RQ's finished and failed registries of our queues.

    RQ's workers do this each ten minutes; ours never run its cleanup of started jobs, see EXECUTION_SECONDS.
    """
    for key in connection.smembers(QUEUES_KEY):
        queue = as_text(key).removeprefix(QUEUE_PREFIX)
        if queue.startswith("vaefarm."):
            for registry in (FinishedJobRegistry, FailedJobRegistry):
                registry(queue, connection, serializer=JSONSerializer).cleanup()


def _date(seconds: float | None) -> datetime:
    return datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
