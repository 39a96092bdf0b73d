"""The transport over Redis."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

import redis

from vaefarm_shared import reading, transitions
from vaefarm_shared.blob_names import latent_name
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.budget import Limits
from vaefarm_shared.catalogue import Catalogue, Contract, unknown_vae
from vaefarm_shared.connection import REPLY_SECONDS, farm_errors
from vaefarm_shared.errors import FarmError, FarmUnavailable
from vaefarm_shared.job import JobStatus
from vaefarm_shared.records import JobRecord
from vaefarm_shared.redis_policy import check_policy
from vaefarm_shared.settings import Settings
from vaefarm_shared.submissions import Submission

from .read_ahead import AHEAD_BYTES
from .redis_blobs import store_errors
from .redis_operations import PAGE
from .redis_previews import RedisPreviews
from .submission import PreparedJob
from .transport import Fetched, Flushed
from .watcher import Watcher

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds for which a contract that was read is believed.
CONTRACT_SECONDS: Final[float] = 60.0

#: Seconds that a latent which was put for a plain RQ job waits for it: a day.
PUT_SECONDS: Final[int] = 24 * 3600


class RedisTransport(RedisPreviews):
    """Jobs and pictures over a Redis connection."""

    def __init__(self, settings: Settings, reply_seconds: float = REPLY_SECONDS) -> None:
        """As `RedisOperations`."""
        super().__init__(settings, reply_seconds)
        self.catalogue = Catalogue.load(settings.catalogue)
        self._watcher = Watcher(self._connection)
        self._contracts: dict[str, tuple[float, Contract]] = {}
        self._policy_checked = False

    def contract(self, vae: str) -> Contract:
        """A worker's published contract, else the catalogue's. Raises UnknownVae."""
        read_at, contract = self._contracts.get(vae, (-CONTRACT_SECONDS, None))
        if contract is not None and time.monotonic() - read_at < CONTRACT_SECONDS:
            return contract
        published = self._insist(lambda: reading.read_contract(self._connection, str(vae)), self._submit_seconds)
        contract = published or self._catalogue_contract(vae)
        self._contracts[vae] = (time.monotonic(), contract)
        return contract

    def _catalogue_contract(self, vae: str) -> Contract:
        contract = self.catalogue[vae].contract if vae in self.catalogue else None
        if contract is None:
            raise unknown_vae(vae, {entry.id: entry for entry in self.catalogue})
        return contract

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        """Put jobs on their queues in one round trip, repeating until Redis has answered or `submit_timeout` is over.

        Before the first of all, Redis' policy is read: one that evicts raises ConfigurationError.
        """
        return self.submit_within(jobs, None)

    def submit_within(self, jobs: Sequence[PreparedJob], quota: int | None) -> list[JobStatus]:
        """As `submit`; raises QuotaExceeded for more than `quota` unended jobs of an owner other than the admin."""
        return self._submit(transitions.submit, jobs, quota)

    def submit_each(self, jobs: Sequence[PreparedJob], quota: int | None = None) -> list[JobStatus | FarmError]:
        """As `submit_within`, whatever becomes of the others: for each job how it stands now, or why it was refused."""
        return self._submit(transitions.submit_each, jobs, quota)

    def _submit(
        self,
        submit: Callable[[redis.Redis, Sequence[Submission], Limits, int | None], T],
        jobs: Sequence[PreparedJob],
        quota: int | None,
    ) -> T:
        batch = self._stored(jobs)
        outside = [
            one.latent_reference
            for job in batch
            for one in (job, job.preview)
            if one is not None and not one.latent_reference.startswith("redis:")
        ]
        try:
            verdicts = self._insist(lambda: self._send(submit, batch, quota), self._submit_seconds)
        except FarmUnavailable:
            # Redis may have taken them all the same: what it has not is swept.
            raise
        except FarmError:
            self._forget_unnamed(outside)
            raise
        self._forget_unnamed(outside)
        return verdicts

    def _send(
        self,
        submit: Callable[[redis.Redis, Sequence[Submission], Limits, int | None], T],
        batch: Sequence[Submission],
        quota: int | None,
    ) -> T:
        if not self._policy_checked:
            for warning in check_policy(self._connection, self._settings.allow_eviction):
                logger.warning("%s", warning)
            self._policy_checked = True
        return submit(self._connection, batch, self._limits(), quota)

    def put_latent(self, job: PreparedJob) -> str:
        """Store a latent without its job, for a day, and return its reference.

        Always in Redis, where it has a life of its own: a file that no record names is swept after an hour.
        """
        name = latent_name(job.spec.id, job.spec.request_hash)
        return self._insist(lambda: BlobStore(self._connection).put(name, job.packed, PUT_SECONDS))

    def spooled(self) -> int:
        """Nothing is ever spooled here."""
        return 0

    def flush(self, timeout: float | None = None) -> Flushed:
        """As there is nothing, nothing is sent."""
        return Flushed(0, 0)

    def status(self, job_id: str) -> JobStatus:
        """A job's status, in one round trip."""
        with farm_errors(self._connection):
            return reading.read_status(self._connection, job_id)

    def statuses(self, job_ids: Sequence[str]) -> list[JobStatus | None]:
        """The status of each job; None where nobody knows it."""
        with farm_errors(self._connection):
            return [
                status
                for start in range(0, len(job_ids), PAGE)
                for status in reading.read_statuses(self._connection, job_ids[start : start + PAGE])
            ]

    def record(self, job_id: str) -> JobRecord:
        """A job's record, in one round trip, or two for a job past its life."""
        with farm_errors(self._connection):
            return reading.read_record(self._connection, job_id)

    def fetch_many(self, job_ids: Sequence[str]) -> list[Fetched | None]:
        """The results of as many as hold AHEAD_BYTES, in two round trips."""
        records: list[JobRecord | None] = []
        wanted: list[tuple[str, int]] = []
        with farm_errors(self._connection), store_errors():
            for record in reading.read_records(self._connection, job_ids):
                stored = [] if record is None else [(one.blob, one.size_bytes) for one in record.stored]
                if records and sum(size for _, size in (*wanted, *stored)) > AHEAD_BYTES:
                    break
                records.append(record)
                wanted += stored
            found = iter(self._blobs.get_many(wanted))
        return [None if record is None else fetched(record, found) for record in records]

    def ended(self, job_id: str) -> "Future[JobStatus]":
        """A future of the job's final status."""
        return self._watcher.ended(job_id)

    def cancel(self, job_id: str) -> bool:
        """End a job that has not ended."""
        status = self._insist(lambda: transitions.cancel(self._connection, job_id))
        if status is None:
            # Raises JobNotFound, or knows of it by its tombstone alone.
            self.status(job_id)
        if status is JobStatus.CANCELED:
            self._forget_canceled([job_id])
        return status is JobStatus.CANCELED

    def cancel_many(self, job_ids: Sequence[str]) -> list[JobStatus | None]:
        """End those that have not ended; how each stands now, None where nobody knows it."""
        statuses = self._insist(lambda: transitions.cancel_many(self._connection, job_ids))
        self._forget_canceled([one for one, status in zip(job_ids, statuses, strict=True) if status == "canceled"])
        return statuses

    def discard(self, job_id: str) -> None:
        """Remove a job's pictures and record."""
        self.cancel(job_id)
        references = self._insist(lambda: transitions.discard(self._connection, job_id))
        self._tidily(lambda: references or [])

    def close(self) -> None:
        """Stop the watcher and close every connection."""
        self._watcher.close()
        self._connection.close()
        self._blobs.close()


def fetched(record: JobRecord, found: "Iterator[bytes | Exception | None]") -> Fetched | None:
    """A record and what was found of what it names, the next of all that was; None unless that is all of a result."""
    data = [(one, next(found)) for one in record.stored]
    whole = tuple(got for one, got in data if isinstance(got, bytes) and len(got) == one.size_bytes)
    return (record, whole) if len(whole) == len(data) > 0 else None
