"""What jobs over Redis hold, in it and outside: written before they are submitted, read when they have ended."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

from vaefarm_shared import reading
from vaefarm_shared.blob_names import latent_name
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.budget import Limits, held_bytes, read_limits
from vaefarm_shared.connection import REPLY_SECONDS, farm_errors
from vaefarm_shared.errors import ConfigurationError, FarmError, FarmUnavailable, InvalidOption
from vaefarm_shared.file_blobs import file_error
from vaefarm_shared.job import MAX_REDIS_BYTES, JobSpec
from vaefarm_shared.records import BlobRecord
from vaefarm_shared.settings import Settings
from vaefarm_shared.submissions import Submission

from .redis_operations import RedisOperations
from .submission import PreparedJob

logger = logging.getLogger(__name__)


class RedisBlobs(RedisOperations):
    """Latents and pictures of a farm over a Redis connection."""

    def __init__(self, settings: Settings, reply_seconds: float = REPLY_SECONDS) -> None:
        """As `RedisOperations`."""
        super().__init__(settings, reply_seconds)
        self._blobs = BlobStore(self._connection, settings.store, settings.store_threshold)
        self._known_limits: Limits | None = None
        self._submit_seconds = settings.submit_timeout

    def stored(self, job_id: str, one: BlobRecord) -> bytes:
        """The bytes of a stored picture, or latents."""
        with farm_errors(self._connection), store_errors():
            data = self._blobs.get(one.blob, one.size_bytes)
        if data is None:
            raise reading.expired(job_id, None)
        return data

    def _stored(self, jobs: Sequence[PreparedJob]) -> list[Submission]:
        """Write latents that go outside of Redis first: a job never names a blob that is not there."""
        outside: list[tuple[str, bytes]] = []
        batch = [self._submission(job, outside) for job in jobs]
        if outside:
            self._insist(lambda: self._write(outside), self._submit_seconds)
        return batch

    def _submission(self, job: PreparedJob, outside: list[tuple[str, bytes]]) -> Submission:
        """A job and its preview as they are submitted; what goes outside of Redis is added to `outside`."""
        self._check_result(job.spec)
        goes_outside = self._blobs.goes_outside(len(job.packed))
        name = latent_name(job.spec.id, job.spec.request_hash, uuid4().hex[:16] if goes_outside else "")
        reference = self._blobs.reference(name, len(job.packed))
        held = held_bytes(job.spec, len(job.packed), self._blobs)
        if goes_outside:
            outside.append((name, job.packed))
        preview = None if job.preview is None else self._submission(job.preview, outside)
        return Submission(job.spec, reference, b"" if goes_outside else job.packed, held, preview)

    def _check_result(self, spec: JobSpec) -> None:
        """Raise InvalidOption for a raw tensor that Redis is not given, where there is nothing but Redis."""
        if spec.output_type == "pt" and not self._blobs.takes(spec.tensor_bytes):
            raise InvalidOption(
                f"output_type='pt' gives a tensor of shape {spec.tensor_shape}, {spec.tensor_bytes} bytes, and Redis is"
                f" given at most {MAX_REDIS_BYTES}: have the farm store such outside of it, on all sides"
                " (VAEFARM_STORE=file:///DIR, or s3://BUCKET/PREFIX), submit several jobs, or take a file of pictures"
            )

    def _write(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        with store_errors():
            assert self._blobs.outside is not None
            self._blobs.outside.put_many(blobs)

    def _forget_unnamed(self, references: Sequence[str]) -> None:
        """Remove those of a submit's latents that no job took: it was refused, or there already."""
        if references:
            self._tidily(
                lambda: [
                    reference
                    for reference, named in zip(
                        references, reading.named_blobs(self._connection, references), strict=True
                    )
                    if not named
                ]
            )

    def _forget_canceled(self, job_ids: Sequence[str]) -> None:
        """Remove the latents of jobs that were canceled, which nobody needs any more."""
        if self._blobs.outside is not None:
            self._tidily(lambda: reading.canceled_latents(self._connection, job_ids))

    def _tidily(self, find: Callable[[], Sequence[str]]) -> None:
        """Remove blobs outside of Redis; what cannot be removed now is swept."""
        try:
            with farm_errors(self._connection), store_errors():
                self._blobs.delete_outside(find())
        except (FarmUnavailable, ConfigurationError) as error:
            logger.warning("some blobs are left to the sweep: %s", error)

    def _limits(self) -> Limits:
        if self._known_limits is None:
            self._known_limits = read_limits(
                self._connection, self._settings.budget_bytes, self._settings.max_queued_jobs
            )
        return self._known_limits


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what a folder raises into errors of ours. Raises StoreAway, InvalidStore."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FarmError):
            raise
        raise file_error(error, "the folder of VAEFARM_STORE") from error
