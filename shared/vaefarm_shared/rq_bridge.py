"""RQ's own data, written by RQ's own code: the one module that makes RQ's private calls (`rq~=3.0`).

A job of ours is an RQ job too: RQ's lists, hashes and registries show it, `rq info` counts it. Its one argument is
its id; RQ's JSON serializer is the only one used. Nothing here reads an RQ job by `Job.fetch`, which would
decompress and deserialize what anyone may have written: a job is rebuilt from our record, and RQ's hash is only
compared (`refusal`).
"""

import json
import zlib
from datetime import UTC, datetime
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
from rq.utils import as_text

#: The function that a job names: a wire contract. No worker of ours imports a name found in Redis.
JOB_FUNCTION: Final[str] = "vaefarm_worker.tasks.decode"

#: Seconds that RQ believes an execution may take. `rq info` runs RQ's cleanup, which would fail live jobs whose
#: score is past; our own leases notice the dead, so RQ's score lies far ahead.
EXECUTION_SECONDS: Final[int] = 7 * 24 * 3600

#: Retries that RQ's cleanup would find: a second line, should anything ever end up there.
RQ_RETRIES: Final[int] = 3

#: Bytes of RQ's `data` and `meta` fields above which a job cannot be ours.
MAX_FIELD_BYTES: Final[int] = 4096

QUEUE_PREFIX: Final[str] = Queue.redis_queue_namespace_prefix
QUEUES_KEY: Final[str] = Queue.redis_queues_keys
KEY_PREFIX: Final[str] = RQ_KEY_PREFIX
SUSPENDED_KEY: Final[str] = WORKERS_SUSPENDED


def job_key(job_id: str) -> str:
    """RQ's hash of a job."""
    return f"{Job.redis_job_namespace_prefix}{job_id}"


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
        args=[job_id],
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


def read_hash(pipe: Pipeline, job_id: str) -> None:
    """Queue the commands whose four replies `refusal` judges; large fields are measured before they are read."""
    pipe.hstrlen(job_key(job_id), "data")
    pipe.hstrlen(job_key(job_id), "meta")
    pipe.eval(
        "if redis.call('HSTRLEN', KEYS[1], 'data') > tonumber(ARGV[1]) then return false end"
        " return redis.call('HGET', KEYS[1], 'data')",
        1,
        job_key(job_id),
        MAX_FIELD_BYTES,
    )
    pipe.hmget(job_key(job_id), "success_callback_name", "failure_callback_name", "stopped_callback_name", "webhooks")


def refusal(job_id: str, data_bytes: int, meta_bytes: int, data: bytes | None, hooks: list[bytes | None]) -> str | None:
    """Why an RQ job must not be run, or None. Nothing in it is unpickled or imported."""
    if data_bytes > MAX_FIELD_BYTES or not data:
        return f"its RQ data has {data_bytes} bytes; a job of vaefarm has a few"
    if meta_bytes:
        return "it carries RQ meta, which vaefarm never writes and never deserializes"
    if any(hooks):
        return "it carries RQ callbacks or webhooks, which vaefarm does not run"
    try:
        call = json.loads(zlib.decompressobj().decompress(data, MAX_FIELD_BYTES))
    except (zlib.error, ValueError):
        return "its RQ data is not JSON; vaefarm never unpickles"
    if call != [JOB_FUNCTION, None, [job_id], {}]:
        name = call[0] if isinstance(call, list) and call else call
        return f"it names {str(name)[:100]!r}; only {JOB_FUNCTION} with its own id is run"
    return None


def begin(pipe: Pipeline, job: Job, worker_name: str) -> str:
    """Write that an execution of the job begins, as RQ's worker does; return the execution's id."""
    execution = Execution.create(job, EXECUTION_SECONDS, pipe, worker_name)
    job.prepare_for_execution(worker_name, pipe)
    pipe.persist(job.key)
    return execution.id


def finish(pipe: Pipeline, job: Job, execution_id: str, worker_name: str, summary: dict[str, Any]) -> None:
    """Write RQ's success: status, result, finished registry."""
    job._result = summary
    job.ended_at = datetime.now(UTC)
    assert job.result_ttl is not None
    job._handle_success(job.result_ttl, pipeline=pipe, worker_name=worker_name, execution_id=execution_id)
    job.cleanup(job.result_ttl, pipeline=pipe, remove_from_queue=False)
    end_execution(pipe, job, execution_id, worker_name)


def fail(pipe: Pipeline, job: Job, execution_id: str | None, worker_name: str, reason: str) -> None:
    """Write RQ's failure: status, reason, failed registry. RQ's meta, data and callbacks are replaced
    by our own, so that nobody who opens the failed job later unpickles what an outsider left there."""
    job.ended_at = datetime.now(UTC)
    pipe.hdel(job.key, "meta", "webhooks")
    job.set_status(JobStatus.FAILED, pipeline=pipe)
    job._handle_failure(reason, pipeline=pipe, worker_name=worker_name, execution_id=execution_id)
    end_execution(pipe, job, execution_id, worker_name)


def cancel(pipe: Pipeline, job: Job, execution_id: str | None, worker_name: str, life_seconds: int) -> None:
    """Write RQ's status canceled, take the job off its list, and give it a life.

    RQ's canceled registry is left alone: RQ never cleans it, so it would grow without end.
    """
    job.set_status(JobStatus.CANCELED, pipeline=pipe)
    pipe.lrem(queue_key(job.origin), 0, job.id)
    pipe.expire(job.key, life_seconds)
    end_execution(pipe, job, execution_id, worker_name)


def give_back(pipe: Pipeline, job: Job, execution_id: str | None, worker_name: str) -> None:
    """Put the job at the front of its list again."""
    job.set_status(JobStatus.QUEUED, pipeline=pipe)
    pipe.lpush(queue_key(job.origin), job.id)
    end_execution(pipe, job, execution_id, worker_name)


def forget(pipe: Pipeline, job: Job) -> None:
    """Remove every trace that RQ keeps of an ended job."""
    for registry in (job.finished_job_registry, job.failed_job_registry):
        pipe.zrem(registry.key, job.id)
    pipe.delete(job.key, job.dependents_key, job.dependencies_key, f"{KEY_PREFIX}:results:{job.id}")


def end_execution(pipe: Pipeline, job: Job, execution_id: str | None, worker_name: str) -> None:
    """Remove the execution from RQ's registries, where there is one."""
    if execution_id is not None:
        Execution(execution_id, job.id, job.connection, worker_name).delete(job, pipe)


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
