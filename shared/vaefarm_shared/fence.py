"""The fence: a job's state changes only in a step that finds the claim's token in the job's lease."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
from redis.client import Pipeline

from . import keys
from .errors import LeaseLost
from .job import FAILURE_SECONDS, RESULT_SECONDS, JobStatus

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in a worker's hands: whoever holds the token may change its state."""

    job_id: str
    queue: str
    token: str
    #: Redis' clock at the claim, Unix seconds.
    claimed_at: float


@dataclass(frozen=True, slots=True)
class Held:
    """What the fence read of a job: Redis' clock and the record's fields.

    Whoever can write to Redis may have written them, so what is no number is read as its default: a garbled job can
    still be ended.
    """

    now: float
    fields: dict[str, str]

    @property
    def status(self) -> JobStatus | None:
        """The job's status."""
        status = self.fields.get("status")
        return None if status is None else JobStatus(status)

    @property
    def execution(self) -> str | None:
        """The id of RQ's execution of the job, where one is under way."""
        return self.fields.get("execution")

    @property
    def attempts(self) -> int:
        """Decodes that have begun; none where the record holds no number."""
        try:
            return int(self.fields.get("attempts", 0))
        except ValueError:
            return 0

    @property
    def queued_at(self) -> float | None:
        """When the job was queued, Unix seconds; None where the record holds no number."""
        return number(self.fields.get("queued_at"))

    @property
    def lives(self) -> tuple[int, int]:
        """Seconds that the job's result and its failure live; the defaults where its spec holds none."""
        try:
            spec = json.loads(self.fields["spec"])
            lives = int(spec.get("result_seconds", RESULT_SECONDS)), int(spec.get("failure_seconds", FAILURE_SECONDS))
        except (KeyError, ValueError, TypeError, AttributeError):
            return RESULT_SECONDS, FAILURE_SECONDS
        return lives if min(lives) > 0 else (RESULT_SECONDS, FAILURE_SECONDS)


def fenced(connection: redis.Redis, job: Claim, write: Callable[[Pipeline, Held], T]) -> T:
    """Run `write` on a transaction that takes effect only while the job's lease bears the claim's token.

    Raises:
        LeaseLost: it does not, or no longer did at the end.
    """
    with connection.pipeline() as pipe:
        try:
            pipe.watch(keys.lease(job.job_id))
            if pipe.get(keys.lease(job.job_id)) != job.token.encode():
                raise LeaseLost(f"job {job.job_id} is no longer this worker's")
            held = read(pipe, job.job_id)
            pipe.multi()
            answer = write(pipe, held)
            pipe.execute()
            return answer
        except redis.WatchError as error:
            raise LeaseLost(f"job {job.job_id} went to another in the meantime") from error


def read(pipe: Pipeline, job_id: str) -> Held:
    """Read a job in WATCH mode, where commands answer at once."""
    now = seconds(pipe.time())
    return Held(now, text(pipe.hgetall(keys.job(job_id))))


def text(raw: Mapping[Any, Any]) -> dict[str, str]:
    """A hash of Redis as text; bytes that are no UTF-8 become replacement characters."""
    return {name.decode(): value.decode("utf-8", "replace") for name, value in raw.items()}


def number(value: str | None) -> float | None:
    """A field of a record as a number; None where it is missing or none."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def seconds(time: tuple[int, int]) -> float:
    """Redis' TIME, (seconds, microseconds), as Unix seconds."""
    return time[0] + time[1] / 1e6
