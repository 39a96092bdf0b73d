"""The seam between a farm's methods and what carries them: Redis, or the gateway's HTTP."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.failures import FailedJob
from vaefarm_shared.job import JobStatus
from vaefarm_shared.overview import Overview
from vaefarm_shared.previews import Put
from vaefarm_shared.quarantine import Device
from vaefarm_shared.reading import QueueDepth
from vaefarm_shared.records import BlobRecord, JobRecord
from vaefarm_shared.workers import WorkerEndpoint

from .submission import PreparedJob


class Flushed(NamedTuple):
    """What a farm did with spooled jobs since it was opened: how many it sent, how many it set aside as refused."""

    sent: int
    refused: int


#: A finished job's record, and the bytes of all that its report names.
Fetched = tuple[JobRecord, tuple[bytes, ...]]


class Glimpse(NamedTuple):
    """A preview as it is just now."""

    #: The picture's bytes; None where there is none.
    data: bytes | None = None
    image_format: str = ""
    #: Whether the job has ended: none comes any more.
    is_over: bool = False


class Transport(Protocol):
    """What carries jobs and pictures. Every method raises FarmUnavailable when the farm is not reachable."""

    def contract(self, vae: str) -> Contract:
        """The contract that latents for a VAE keep. Raises UnknownVae."""
        ...

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        """Put jobs on the queue, each at most once however often this is repeated.

        Raises:
            JobConflict: an id was used for other content.
            QueueFull: the farm takes no more just now; jobs before the first that was refused are taken.
            InvalidInput: a job holds more than the farm ever may, or its raw tensor is too large for where it is kept.
            ConfigurationError: the farm cannot keep what it acknowledges.
        """
        ...

    def put_latent(self, job: PreparedJob) -> str:
        """Store a latent without queueing its job; its reference."""
        ...

    def spooled(self) -> int:
        """How many jobs are in the spool; none where there is no spool."""
        ...

    def flush(self, timeout: float | None = None) -> Flushed:
        """Return once the jobs that are spooled now have left the spool. Raises WaitTimeout."""
        ...

    def status(self, job_id: str) -> JobStatus:
        """A job's status. Raises JobNotFound."""
        ...

    def statuses(self, job_ids: Sequence[str]) -> list[JobStatus | None]:
        """The status of each job, in few round trips; None where nobody knows it."""
        ...

    def record(self, job_id: str) -> JobRecord:
        """A job's record. Raises JobNotFound."""
        ...

    def fetch_many(self, job_ids: Sequence[str]) -> list[Fetched | None]:
        """The record and all that it names of the first, and of so many others as come in the same round trips.

        None for those that did not come whole, whatever the reason.
        """
        ...

    def stored(self, job_id: str, one: BlobRecord) -> bytes:
        """The bytes of a stored picture, or latents. Raises JobExpired when they are past their life."""
        ...

    def preview(self, job_id: str, index: int) -> Glimpse:
        """A picture of a job's newest preview; of a job that nobody knows there is none yet."""
        ...

    def put_preview(self, job: PreparedJob) -> Put:
        """Queue a preview of a job that is yet to come, or take the place of one that waits; tried once.

        Raises:
            JobNotFound: the job is another owner's.
            QueueFull, QuotaExceeded: the farm takes no more just now.
        """
        ...

    def drop_preview(self, job_id: str) -> bool:
        """Remove a job's preview, whatever became of it; False where there is none."""
        ...

    def ended(self, job_id: str) -> "Future[JobStatus]":
        """A future of the job's final status, or of JobNotFound. Cancel it to wait no longer."""
        ...

    def cancel(self, job_id: str) -> bool:
        """End a job that has not ended; True when it is canceled now. Raises JobNotFound."""
        ...

    def cancel_many(self, job_ids: Sequence[str]) -> list[JobStatus | None]:
        """End those that have not ended; how each stands now, None where nobody knows it."""
        ...

    def discard(self, job_id: str) -> None:
        """Remove a job's pictures and record, canceling it first. Raises JobNotFound."""
        ...

    def overview(self) -> Overview:
        """How the farm stands now, as far as the asker may know."""
        ...

    def queues(self) -> list[QueueDepth]:
        """How many jobs wait on each queue."""
        ...

    def workers(self) -> list[dict[str, object]]:
        """What each living worker says of itself."""
        ...

    def endpoints(self) -> list[WorkerEndpoint]:
        """The remote endpoints that living workers ask."""
        ...

    def queued(self, vae: str) -> Iterator[str]:
        """The ids of a VAE's waiting jobs, some perhaps twice."""
        ...

    def pause(self, vae: str) -> bool:
        """Let no worker claim a VAE's jobs; False where it was paused already."""
        ...

    def resume(self, vae: str) -> bool:
        """Let workers claim a VAE's jobs again; False where it was not paused."""
        ...

    def paused(self) -> list[str]:
        """The paused VAEs."""
        ...

    def failed(self, vae: str | None = None) -> Iterator[FailedJob]:
        """The failed jobs of a VAE, or of all, in no order."""
        ...

    def retry(self, job_id: str) -> bool:
        """Put a failed job back on its queue; False where it has not failed. Raises JobNotFound, JobExpired."""
        ...

    def quarantined(self) -> list[Device]:
        """The quarantined devices."""
        ...

    def devices(self) -> list[Device]:
        """The devices that workers have, that failed of late or are quarantined."""
        ...

    def release(self, device_id: str) -> bool:
        """Let a quarantined device be used again; False where it was not quarantined."""
        ...

    def ping(self) -> None:
        """Return if the farm is reachable now."""
        ...

    def close(self) -> None:
        """Close connections and threads."""
        ...
