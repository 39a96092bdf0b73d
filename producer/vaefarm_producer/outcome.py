"""What becomes of one of many jobs."""

from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, TypeVar

from vaefarm_shared.errors import (
    FarmError,
    InvalidInput,
    JobCanceled,
    JobConflict,
    JobExpired,
    JobFailed,
    JobNotFound,
)
from vaefarm_shared.job import JobStatus

from .submission import PreparedJob

T = TypeVar("T")
R = TypeVar("R")

#: What goes wrong with one job and leaves the others as they are.
ITS_OWN: Final = (InvalidInput, JobConflict, JobFailed, JobCanceled, JobExpired, JobNotFound)


class Stage(Enum):
    """How far a job has come."""

    PULLED = auto()
    SUBMITTED = auto()
    ENDED = auto()
    COLLECTING = auto()
    DONE = auto()


@dataclass(slots=True)
class Outcome(Generic[T, R]):
    """What became of one job: its `value`, or the `error` that is its own."""

    #: Its place among all, from 0.
    place: int
    item: T
    job_id: str | None = None
    value: R | None = None
    error: FarmError | None = None
    stage: Stage = Stage.PULLED
    #: Until it is submitted.
    prepared: PreparedJob | None = None
    end: "Future[JobStatus] | None" = None

    @property
    def size_bytes(self) -> int:
        """Bytes of its latents until it is submitted."""
        return 0 if self.prepared is None else len(self.prepared.packed)
