"""The seam between a farm's methods and what carries them: Redis, or the gateway's HTTP."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.job import ImageRecord, JobRecord, JobStatus
from vaefarm_shared.reading import QueueDepth

from .submission import PreparedJob


class Transport(Protocol):
    """What carries jobs and pictures. Every method raises FarmUnavailable when the farm is not reachable."""

    def contract(self, vae: str) -> Contract:
        """The contract that latents for a VAE keep. Raises UnknownVae."""
        ...

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        """Put jobs on the queue, each at most once however often this is repeated.

        Raises:
            JobConflict: an id was used for other content.
            QueueFull: the farm takes no more just now.
        """
        ...

    def status(self, job_id: str) -> JobStatus:
        """A job's status. Raises JobNotFound."""
        ...

    def record(self, job_id: str) -> JobRecord:
        """A job's record. Raises JobNotFound."""
        ...

    def picture(self, job_id: str, image: ImageRecord) -> bytes:
        """A stored picture's bytes. Raises JobExpired when they are past their life."""
        ...

    def ended(self, job_id: str) -> "Future[JobStatus]":
        """A future of the job's final status, or of JobNotFound. Cancel it to wait no longer."""
        ...

    def cancel(self, job_id: str) -> bool:
        """End a job that has not ended; True when it is canceled now. Raises JobNotFound."""
        ...

    def discard(self, job_id: str) -> None:
        """Remove a job's pictures and record, canceling it first. Raises JobNotFound."""
        ...

    def queues(self) -> list[QueueDepth]:
        """How many jobs wait on each queue."""
        ...

    def workers(self) -> list[dict[str, object]]:
        """What each living worker says of itself."""
        ...

    def ping(self) -> None:
        """Return if the farm is reachable now."""
        ...

    def close(self) -> None:
        """Close connections and threads."""
        ...
