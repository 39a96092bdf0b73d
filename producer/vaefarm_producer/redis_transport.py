"""The transport over Redis."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from vaefarm_shared import reading, transitions
from vaefarm_shared.blobs import BlobStore, latent_name
from vaefarm_shared.budget import Limits, held_bytes, read_limits
from vaefarm_shared.catalogue import Catalogue, Contract, unknown_vae
from vaefarm_shared.connection import connect, farm_errors
from vaefarm_shared.errors import FarmUnavailable
from vaefarm_shared.job import ImageRecord, JobRecord, JobStatus
from vaefarm_shared.reading import QueueDepth
from vaefarm_shared.settings import Settings
from vaefarm_shared.workers import read_workers

from .submission import PreparedJob
from .watcher import Watcher

T = TypeVar("T")

#: Seconds for which a contract that was read is believed.
CONTRACT_SECONDS: Final[float] = 60.0

#: Bytes of latents in one round trip of a bulk submit: enough to hide the trip, little enough to hold.
ROUND_TRIP_BYTES: Final[int] = 8 * 1024 * 1024


class RedisTransport:
    """Jobs and pictures over a Redis connection."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = connect(settings.redis_url.get_secret_value())
        self._blobs = BlobStore(self._connection, settings.blobs, settings.blob_threshold)
        self._catalogue = Catalogue.load(settings.catalogue)
        self._watcher = Watcher(self._connection)
        self._contracts: dict[str, tuple[float, Contract]] = {}
        self._known_limits: Limits | None = None

    def contract(self, vae: str) -> Contract:
        """A worker's published contract, else the catalogue's. Raises UnknownVae."""
        read_at, contract = self._contracts.get(vae, (-CONTRACT_SECONDS, None))
        if contract is not None and time.monotonic() - read_at < CONTRACT_SECONDS:
            return contract
        published = self._insist(lambda: reading.read_contract(self._connection, str(vae)))
        contract = published or (self._catalogue[vae].contract if vae in self._catalogue else None)
        if contract is None:
            raise unknown_vae(vae, {entry.id: entry for entry in self._catalogue})
        self._contracts[vae] = (time.monotonic(), contract)
        return contract

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        """Put jobs on their queues, repeating until Redis has answered or `submit_timeout` is over."""
        statuses: list[JobStatus] = []
        batch: list[transitions.Submission] = []
        for job in jobs:
            batch.append(self._stored(job))
            if sum(len(one.latent_bytes) for one in batch) > ROUND_TRIP_BYTES:
                statuses += self._send(batch)
                batch = []
        return statuses + (self._send(batch) if batch else [])

    def _stored(self, job: PreparedJob) -> transitions.Submission:
        """Write a latent that goes to files first: a job never names a blob that is not there."""
        name = latent_name(job.spec.id, job.spec.request_hash)
        reference = self._blobs.reference(name, len(job.packed))
        held = held_bytes(job.spec, len(job.packed), self._blobs)
        if self._blobs.goes_to_files(len(job.packed)):
            self._blobs.put(name, job.packed, 0)
            return transitions.Submission(job.spec, reference, b"", held)
        return transitions.Submission(job.spec, reference, job.packed, held)

    def _send(self, batch: list[transitions.Submission]) -> list[JobStatus]:
        return self._insist(lambda: transitions.submit(self._connection, batch, self._limits()))

    def _limits(self) -> Limits:
        if self._known_limits is None:
            self._known_limits = read_limits(
                self._connection, self._settings.budget_bytes, self._settings.max_queued_jobs
            )
        return self._known_limits

    def _insist(self, call: Callable[[], T]) -> T:
        """Repeat a call that may be repeated until Redis answers or `submit_timeout` is over."""
        retrying = Retrying(
            retry=retry_if_exception_type(FarmUnavailable),
            stop=stop_after_delay(self._settings.submit_timeout),
            wait=wait_random_exponential(multiplier=0.05, max=2.0),
            reraise=True,
        )
        for attempt in retrying:
            with attempt, farm_errors(self._connection):
                return call()
        raise AssertionError("tenacity raises the last error")

    def status(self, job_id: str) -> JobStatus:
        """A job's status, in one round trip."""
        with farm_errors(self._connection):
            return reading.read_status(self._connection, job_id)

    def record(self, job_id: str) -> JobRecord:
        """A job's record, in one round trip."""
        with farm_errors(self._connection):
            return reading.read_record(self._connection, job_id)

    def picture(self, job_id: str, image: ImageRecord) -> bytes:
        """A stored picture's bytes."""
        with farm_errors(self._connection):
            data = self._blobs.get(image.blob, image.size_bytes)
        if data is None:
            raise reading.expired(job_id, None)
        return data

    def ended(self, job_id: str) -> "Future[JobStatus]":
        """A future of the job's final status."""
        return self._watcher.ended(job_id)

    def cancel(self, job_id: str) -> bool:
        """End a job that has not ended."""
        status = self._insist(lambda: transitions.cancel(self._connection, job_id))
        if status is None:
            # Raises JobNotFound, or knows of it by its tombstone alone.
            self.status(job_id)
        return status is JobStatus.CANCELED

    def discard(self, job_id: str) -> None:
        """Remove a job's pictures and record."""
        self.cancel(job_id)
        references = self._insist(lambda: transitions.discard(self._connection, job_id))
        with farm_errors(self._connection):
            for reference in references or ():
                self._blobs.delete(reference)

    def queues(self) -> list[QueueDepth]:
        """How many jobs wait on each queue."""
        with farm_errors(self._connection):
            return reading.read_queues(self._connection)

    def workers(self) -> list[dict[str, object]]:
        """What each living worker says of itself."""
        with farm_errors(self._connection):
            return read_workers(self._connection)

    def ping(self) -> None:
        """Return if Redis answers now."""
        with farm_errors(self._connection):
            self._connection.ping()

    def close(self) -> None:
        """Stop the watcher and close every connection."""
        self._watcher.close()
        self._connection.close()
