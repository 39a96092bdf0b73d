"""Records: a job as anyone may read it, what came of it and how that was made, and what is left past its life."""

import re
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from .job import ADMIN, ImageFormat, JobStatus, VideoFormat

#: A dtype, a revision or a switch of a report, as headers tell them.
PROVENANCE: Final[re.Pattern[str]] = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


class BlobRecord(BaseModel):
    """Something stored: where its bytes lie, and how many they are."""

    model_config = ConfigDict(frozen=True)

    blob: str
    size_bytes: NonNegativeInt


class ImageRecord(BlobRecord):
    """One stored picture."""

    image_format: ImageFormat
    width: int
    height: int


class VideoRecord(BlobRecord):
    """One stored video."""

    video_format: VideoFormat
    #: Of a zip: the format of its frames.
    image_format: ImageFormat | None = None
    width: int
    height: int
    num_frames: int
    #: Frames a second, and seconds that it is played for; none of a zip that no rate was given for.
    fps: float | None = None
    duration_seconds: float | None = None


class TensorRecord(BlobRecord):
    """A stored tensor, as a safetensors file."""

    shape: tuple[int, ...]
    dtype: str


class LatentsRecord(TensorRecord):
    """Stored latents."""


class DecodeReport(BaseModel):
    """How the pictures of one job were made, or the latents of an encode: their provenance. Seconds are wall-clock.

    `seconds_decode` is the device's time, of an encode too; `seconds_encode` goes into writing files.
    """

    model_config = ConfigDict(frozen=True)

    vae: str
    revision: str
    dtype: str
    device: str
    worker: str
    #: The endpoint that decoded it for the worker, by its name.
    endpoint: str | None = None
    attempt: int
    seconds_queued: float
    seconds_decode: float
    seconds_encode: float
    batch_size: int = 1
    reproducible: bool = False
    #: Set when the first decode was not finite and a wider dtype gave the picture.
    widened_from: str | None = None
    #: Switches that may change bits against the plain pipeline, by name.
    switches: tuple[str, ...] = ()
    #: Whether anything checked the pictures for safety: latents skip the pipeline's own checker and watermark.
    safety_checked: bool = False
    #: What the operator had done to the pictures after their decode, by the entry points' names. A raw tensor was only
    #: looked at: what they changed is not in it.
    after_decode: tuple[str, ...] = ()
    images: tuple[ImageRecord, ...] = ()
    videos: tuple[VideoRecord, ...] = ()
    #: What an encode made.
    latents: LatentsRecord | None = None
    #: What a decode with output_type='pt' made.
    tensor: TensorRecord | None = None

    @property
    def stored(self) -> tuple[BlobRecord, ...]:
        """All that the job's result consists of: pictures, videos, latents, or a raw tensor."""
        return (*self.images, *self.videos, *(one for one in (self.latents, self.tensor) if one is not None))

    def to_json(self) -> str:
        """Write the report without its defaults."""
        return self.model_dump_json(exclude_defaults=True)


class JobRecord(BaseModel):
    """A job as anyone may read it. Times are Unix seconds by Redis' clock."""

    model_config = ConfigDict(frozen=True)

    id: str
    status: JobStatus
    #: Why it failed, expired or was canceled.
    reason: str | None = None
    #: What an earlier attempt met, of a job that was returned to its queue.
    last_error: str | None = None
    vae: str | None = None
    queue: str | None = None
    queued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    attempts: int = 0
    worker: str | None = None
    #: The name of the key that made it; 'admin' for one that was made over Redis.
    owner: str = ADMIN
    metadata: dict[str, str] = Field(default_factory=dict)
    report: DecodeReport | None = None

    @property
    def stored(self) -> tuple[BlobRecord, ...]:
        """All that its result consists of; nothing of a job that has not finished."""
        return self.report.stored if self.status is JobStatus.FINISHED and self.report is not None else ()


class Tombstone(BaseModel):
    """What is left of a job past its life."""

    model_config = ConfigDict(frozen=True)

    status: JobStatus
    request_hash: str
    reason: str | None = None
    owner: str = ADMIN


def blob_references(fields: dict[str, str]) -> list[str]:
    """Every blob that a record names."""
    references = [fields["latent"]] if fields.get("latent") else []
    if fields.get("report"):
        references += [one.blob for one in DecodeReport.model_validate_json(fields["report"]).stored]
    return references
