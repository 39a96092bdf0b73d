"""How a job ends: from what became of it on the device to what is written about it."""

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import redis

from vaefarm_shared import keys
from vaefarm_shared.blob_names import image_name
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.errors import (
    DecodeError,
    EndpointRefused,
    EndpointsAway,
    FarmError,
    InvalidStore,
    NonFiniteImage,
    OutOfMemory,
    RefusedJob,
    VaeUnavailable,
)
from vaefarm_shared.job import MAX_REDIS_BYTES, JobSpec, JobStatus
from vaefarm_shared.latents import HostTensor
from vaefarm_shared.leases import Claim, How
from vaefarm_shared.previews import is_preview
from vaefarm_shared.records import ImageRecord, LatentsRecord, TensorRecord, VideoRecord
from vaefarm_shared.transitions import Outcome

from .decoder import Decoded, Encoded
from .elsewhere import another_holds
from .encode import encoded_files
from .loading import Loaded
from .patience import Abandoned
from .reports import Reporter
from .station import Station

logger = logging.getLogger(__name__)

#: What other workers lack, too, where a job fails for want of it.
LACKS: Final[dict[type[Exception], str]] = {
    OutOfMemory: "has room for it",
    VaeUnavailable: "can load it",
    EndpointRefused: "decodes it",
}


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one job on the device."""

    job: Loaded
    attempt: int
    outcome: Decoded | Encoded | Exception
    #: Its share of the batch's time on the device.
    seconds_decode: float
    batch_size: int
    #: The `traceparent` of the batch's span.
    batch_trace: str | None = None
    #: Of what was forwarded: its share of the worker's time, of which its lane is charged; else as `seconds_decode`.
    charged_seconds: float | None = None

    @property
    def seconds_charged(self) -> float:
        """What its lane is charged."""
        return self.seconds_decode if self.charged_seconds is None else self.charged_seconds


@dataclass(slots=True)
class Ready:
    """One thing to write: an outcome, or a return to the queue."""

    claim: Claim
    pixels: int = 0
    #: Pictures of a finished job, or latents of an encode.
    pictures: int = 0
    outcome: Outcome | None = None
    how: How = "free"
    reason: str = ""
    size_bytes: int = 0
    #: References of what was made; and of that by name what is yet to be written outside of Redis.
    files: tuple[str, ...] = ()
    unwritten: tuple[tuple[str, bytes], ...] = ()
    latent_reference: str = ""
    #: When its files began to be made, Unix seconds, and the `traceparent` of the job and of its batch's span.
    began: float = 0.0
    job_trace: str | None = None
    batch_trace: str | None = None


class Endings:
    """Decides and prepares; nothing is changed here but blobs outside of Redis that no record names yet."""

    def __init__(self, station: Station, connection: redis.Redis, blobs: BlobStore) -> None:
        self._worker_name = station.name
        self._max_attempts = station.settings.max_attempts
        self._patience = station.patience
        self._sides = station.sides
        self._reporter = Reporter(station.name, station.decoder, station.after_decode)
        self._after_decode = station.after_decode
        self._connection = connection
        self._blobs = blobs

    def of(self, done: Done) -> Ready:
        """What a decoded job becomes: its pictures, or latents, become files; those that go outside of Redis are for
        `write`.

        Raises:
            Abandoned: the worker stops, and Redis is away.
        """
        began = time.time()
        ready = self._became(done)
        ready.began, ready.job_trace, ready.batch_trace = began, done.job.spec.traceparent, done.batch_trace
        return ready

    def write(self, ready: Ready) -> Ready:
        """Write what goes outside of Redis, for as long as the store is away; what the job becomes then.

        Raises:
            Abandoned: the worker stops, and the store is away.
        """
        outside = self._blobs.outside
        try:
            if outside is not None and ready.unwritten:
                self._patience.insist(partial(outside.put_many, ready.unwritten))
        except Abandoned:
            raise
        except (OSError, InvalidStore) as error:
            reason = f"its result cannot be written here: {error}"
            return Ready(ready.claim, how="avoid", reason=reason, files=ready.files)
        ready.unwritten = ()
        return ready

    def _became(self, done: Done) -> Ready:
        if isinstance(done.outcome, Exception):
            return self._went_wrong(done, done.outcome)
        try:
            return self._finished(done, done.outcome)
        except Exception as error:
            return self._went_wrong(done, error)

    def _finished(self, done: Done, made: Decoded | Encoded) -> Ready:
        """Make a job's files."""
        began = time.monotonic()
        claim, spec = done.job.claim, done.job.spec
        if isinstance(made, Decoded):
            made = self._after_decode.apply(made, spec)
        try:
            files = encoded_files(made, spec)
        except OSError as error:
            # The encoder's, not the disk's: another worker would not do better.
            kind = spec.image_format if spec.num_frames is None else spec.video_format
            raise DecodeError(f"its picture cannot be written as {kind}: {error}") from error
        seconds_encode = time.monotonic() - began
        references, to_redis, unwritten = self._places(claim, spec, files)
        stored = [(reference, len(data)) for reference, data in zip(references, files, strict=True)]
        report = self._reporter.report(done, made, seconds_encode, **records_of(made, spec, stored))
        outcome = Outcome(
            claim,
            JobStatus.FINISHED,
            self._worker_name,
            report=report,
            extra_seconds=done.seconds_charged - done.job.cost_seconds,
            device_seconds=done.seconds_charged,
            files=to_redis,
        )
        size = sum(len(data) for _, data, _ in to_redis)
        return Ready(
            claim,
            pictures=spec.count,
            outcome=outcome,
            size_bytes=size,
            files=tuple(references),
            unwritten=tuple(unwritten),
            latent_reference=done.job.latent_reference,
        )

    def _places(
        self, claim: Claim, spec: JobSpec, files: list[bytes]
    ) -> tuple[list[str], list[tuple[str, bytes, int]], list[tuple[str, bytes]]]:
        """Where a job's files go: the reference of each, what goes to Redis with its life, and what goes elsewhere.

        Raises:
            RefusedJob: Redis is not given one as large.
        """
        references, to_redis, unwritten = [], [], []
        for index, data in enumerate(files):
            name = image_name(claim.job_id, claim.token, index)
            references.append(self._blobs.reference(name, len(data)))
            if self._blobs.goes_outside(len(data)):
                unwritten.append((name, data))
            elif not self._blobs.takes(len(data)):
                raise RefusedJob(
                    f"its result has {len(data)} bytes, and Redis is given at most {MAX_REDIS_BYTES}: have the farm"
                    " store such outside of it (VAEFARM_STORE=file:///DIR, or s3://BUCKET/PREFIX)"
                )
            else:
                to_redis.append((keys.blob(name), data, spec.result_seconds))
        return references, to_redis, unwritten

    def _went_wrong(self, done: Done, error: Exception) -> Ready:
        """What a job's own error costs it: an attempt, or its life; what is lacking here only sends it elsewhere."""
        claim, reason = done.job.claim, describe(error)
        if isinstance(error, EndpointsAway) or self._sides.turn(done.job.spec, error):
            return Ready(claim, how="free", reason=reason)
        if isinstance(error, OutOfMemory | VaeUnavailable | EndpointRefused):
            holds = partial(another_holds, self._connection, claim, done.job.spec.vae, self._worker_name)
            if self._patience.insist(holds):
                return Ready(claim, how="avoid", reason=reason)
            return self._failed(done, f"{reason}, and no other worker that lives {LACKS[type(error)]}")
        if not isinstance(error, FarmError):
            logger.error("job %s: %s", claim.job_id, reason, exc_info=error, extra={"job_id": claim.job_id})
        may_pass = (isinstance(error, DecodeError) and not isinstance(error, NonFiniteImage)) or not isinstance(
            error, FarmError
        )
        if may_pass and done.attempt < self._max_attempts and not is_preview(claim.job_id):
            return Ready(claim, how="attempt", reason=reason)
        return self._failed(done, reason)

    def _failed(self, done: Done, reason: str) -> Ready:
        extra = done.seconds_charged - done.job.cost_seconds
        return Ready(
            done.job.claim,
            outcome=Outcome(done.job.claim, JobStatus.FAILED, self._worker_name, reason, extra_seconds=extra),
        )


def records_of(made: Decoded | Encoded, spec: JobSpec, stored: list[tuple[str, int]]) -> dict[str, Any]:
    """What a report says of what was made; `stored`: reference and bytes of each file."""
    if isinstance(made, Encoded):
        return {"latents": LatentsRecord.model_validate(tensor_fields(made.latents, *stored[0]))}
    if made.tensor is not None:
        return {"tensor": TensorRecord.model_validate(tensor_fields(made.tensor, *stored[0]))}
    if spec.num_frames is not None:
        return {"videos": tuple(video_record(spec, *one) for one in stored)}
    return {"images": tuple(image_record(spec, *one) for one in stored)}


def image_record(spec: JobSpec, blob: str, size_bytes: int) -> ImageRecord:
    """The record of one of a job's pictures."""
    height, width = spec.picture_size
    return ImageRecord(blob=blob, image_format=spec.image_format, size_bytes=size_bytes, width=width, height=height)


def video_record(spec: JobSpec, blob: str, size_bytes: int) -> VideoRecord:
    """The record of one of a job's videos."""
    height, width = spec.picture_size
    frames = spec.num_frames or 1
    return VideoRecord(
        blob=blob,
        video_format=spec.video_format,
        image_format=spec.image_format if spec.video_format == "zip" else None,
        size_bytes=size_bytes,
        width=width,
        height=height,
        num_frames=frames,
        fps=spec.fps,
        duration_seconds=None if spec.fps is None else round(frames / spec.fps, 6),
    )


def tensor_fields(tensor: HostTensor, blob: str, size_bytes: int) -> dict[str, Any]:
    """The fields of a stored tensor's record."""
    return {"blob": blob, "size_bytes": size_bytes, "shape": tensor.shape, "dtype": tensor.dtype}


def describe(error: Exception) -> str:
    """An error as a job's reason: one of ours speaks for itself."""
    return str(error) if isinstance(error, FarmError) else f"{type(error).__name__}: {error}"
