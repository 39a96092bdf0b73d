"""A job: what is asked (`JobSpec`) and how it stands (`JobStatus`); `records` has what came of it.

Versions: a change that alters the picture, or that an older worker could not honour, raises `JOB_VERSION`; a
worker refuses versions it does not read, by name. A job is written in the lowest version that carries it, so that
workers of the release before decode what they can. Fields that an older worker may ignore are added freely.
"""

import json
from enum import StrEnum
from math import ceil, prod
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .errors import RefusedJob, UnsupportedVersion
from .job_ids import JOB_ID_PATTERN

#: The highest version of job that this code writes; it reads every one from 1.
JOB_VERSION: Final[int] = 5

#: The owner of jobs that were made over Redis: it may do anything.
ADMIN: Final[str] = "admin"

#: Characters that a job's metadata may have in all.
MAX_METADATA_CHARACTERS: Final[int] = 16 * 1024

#: Bytes of the largest value that Redis is given; it takes none of 512 MiB. What is larger lies outside of it.
MAX_REDIS_BYTES: Final[int] = 256 * 1024 * 1024

#: Bytes of the largest raw tensor that is given back: a worker has it in memory twice, and whoever reads it once.
MAX_TENSOR_BYTES: Final[int] = 2 * 1024**3

#: Frames a second that a video may have: with fewer an encoder's rate, in bits a second, would be none.
MIN_FPS: Final[float] = 0.1
MAX_FPS: Final[int] = 240

#: Seconds that a picture is kept unless the job says otherwise: a day.
RESULT_SECONDS: Final[int] = 24 * 3600

#: Seconds that a failed job and its latent are kept unless the job says otherwise: a week.
FAILURE_SECONDS: Final[int] = 7 * 24 * 3600

#: Seconds that a job may name, 31 years: Redis refuses lives that do not fit its clock, and with them the settle of
#: every job in the same round trip.
MAX_SECONDS: Final[int] = 10**9


class JobStatus(StrEnum):
    """Where a job stands in its life."""

    QUEUED = "queued"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    #: In a producer's spool, on its way to Redis: no other process knows of it yet.
    SPOOLED = "spooled"


#: Statuses that only a new attempt under the same id leaves.
TERMINAL_STATUSES: Final = frozenset({JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.EXPIRED})

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ImageFormat = Literal["png", "jpeg", "webp"]
Priority = Literal["high", "normal", "low"]
Layout = Literal[
    "spatial", "packed", "tokens", "patchified", "frames", "video", "video_tokens", "frames_first", "padded"
]
VideoFormat = Literal["mp4", "webp", "zip"]
#: What some VAEs' decodes take besides latents.
DecodeArgument = Literal["decode_timestep", "decode_noise_scale", "decode_chunk_size", "seed"]

#: Layouts that a reader of version 1 knows.
FIRST_LAYOUTS: Final[tuple[Layout, ...]] = ("spatial", "packed")
Task = Literal["decode", "encode"]
OutputType = Literal["pil", "pt"]
Factor = Annotated[float, Field(strict=True, allow_inf_nan=False)]

#: Text that can be written as UTF-8: pydantic looks for halves of surrogate pairs where a length is to be checked.
Unicode = Annotated[str, Field(min_length=0)]


class JobSpec(BaseModel):
    """What a producer asks for: everything a worker must know, next to the latent's bytes.

    `shape` and `dtype` are the latent tensor's; `count`, `height`, `width` are those of the pictures as they are
    decoded, in pixels, or of the videos and their frames. Of an encode `shape` is that of the latents to come, `dtype`
    that of the image tensor that was given. Times are Unix seconds, lives are seconds.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Annotated[int, Field(ge=1, le=JOB_VERSION)] = 1
    id: Annotated[str, Field(pattern=rf"^{JOB_ID_PATTERN.pattern}$")]
    vae: Name
    dtype: Literal["float16", "bfloat16", "float32", "uint8"]
    shape: Annotated[tuple[int, ...], Field(min_length=3, max_length=5)]
    layout: Layout
    count: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    #: Pixels to which each picture is resized and cropped after its decode; None leaves it as it is.
    crop_height: Annotated[int, Field(ge=1)] | None = None
    crop_width: Annotated[int, Field(ge=1)] | None = None
    #: Frames of each video; None where the job makes pictures.
    num_frames: Annotated[int, Field(ge=1)] | None = None
    #: Frames a second, of a video's file that is played.
    fps: Annotated[float, Field(ge=MIN_FPS, le=MAX_FPS, allow_inf_nan=False)] | None = None
    #: What a video's file is: MP4 with H.264, an animated WebP, or a zip of its frames in `image_format`.
    video_format: VideoFormat = "mp4"
    #: 3 for RGB, 4 for RGBA.
    picture_channels: Literal[3, 4] = 3
    #: Whether the latents are as a pipeline returns them; False when they were denormalised for the decoder already, or
    #: of an encode when they are to be as the encoder gives them.
    normalised: bool = True
    #: What takes the place of the VAE's own constants: `z / scaling_factor + shift_factor` of a decode, `(z -
    #: shift_factor) * scaling_factor` of an encode.
    scaling_factor: Factor | None = None
    shift_factor: Factor | None = None
    task: Task = "decode"
    #: Of an encode: whether the blob is a picture's file rather than a tensor.
    from_file: bool = False
    #: Of a decoder that is conditioned on a timestep: that, and the share of noise that takes the latents' place, as
    #: LTXPipeline's arguments of these names. None is 0 for the first, and the first for the second.
    decode_timestep: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    decode_noise_scale: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    #: Frames that are decoded at a time, where a VAE is told: other frames by a little. None decodes a video's in one.
    decode_chunk_size: Annotated[int, Field(ge=1)] | None = None
    #: Of an encode: the seed with which the posterior is sampled; its mode where there is none. Of a decode: its
    #: noise.
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    request_hash: str
    #: 'pil' gives pictures, 'pt' what the decoder gives, as one float16 tensor: neither clamped nor denormalised.
    output_type: OutputType = "pil"
    image_format: ImageFormat = "png"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    lossless: bool = False
    reproducible: bool = False
    #: Whether tiles may be decoded one by one where memory is short; they change the picture visibly.
    tiling: bool = False
    producer: Name = "default"
    owner: Annotated[str, Field(min_length=1)] = ADMIN
    priority: Priority = "normal"
    #: Seconds after submit by which the decode must have begun, by Redis' clock.
    deadline_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = None
    metadata: dict[Unicode, Unicode] = Field(default_factory=dict)
    #: Whether metadata go into the files as well as into the record.
    embed_metadata: bool = True
    traceparent: str | None = None
    #: A URL that is told of the job's end; by gateways, to hosts that the operator allows.
    webhook: Annotated[str, Field(pattern=r"^https?://[!-~]+$", max_length=2048)] | None = None
    result_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] = RESULT_SECONDS
    failure_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] = FAILURE_SECONDS

    @property
    def pixels(self) -> int:
        """Pixels over all pictures, or all frames of all videos, of the job, as memory goes by them."""
        return self.count * self.picture_pixels

    @property
    def picture_pixels(self) -> int:
        """Pixels of one picture: as it is decoded, or as it is resized to be cropped, whichever are more; of one video,
        those of all its frames."""
        height, width = self.picture_size
        ratio = max(height / self.height, width / self.width, 1.0)
        return ceil(self.height * self.width * ratio**2) * (self.num_frames or 1)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of each finished picture, in pixels."""
        return self.crop_height or self.height, self.crop_width or self.width

    @property
    def embeds_metadata(self) -> bool:
        """Whether its files are to have metadata in them."""
        return bool(self.metadata) and self.embed_metadata

    @property
    def noise_scale(self) -> float:
        """The share of noise in the decoder's input: that of `decode_noise_scale`, else of `decode_timestep`."""
        return (self.decode_timestep or 0.0) if self.decode_noise_scale is None else self.decode_noise_scale

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of the raw tensor that the decode gives: (count, channels, height, width), of videos (count, channels,
        frames, height, width)."""
        frames = () if self.num_frames is None else (self.num_frames,)
        return (self.count, self.picture_channels, *frames, *self.picture_size)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of that tensor in float16."""
        return 2 * prod(self.tensor_shape)

    @model_validator(mode="after")
    def _agrees(self) -> "JobSpec":
        """Refuse fields that contradict each other."""
        if (why := self._contradiction()) is not None:
            raise PydanticCustomError("contradiction", "{why}", {"why": why})
        return self

    def _contradiction(self) -> str | None:
        given = self.scaling_factor is not None or self.shift_factor is not None
        if self.scaling_factor == 0:
            return "scaling_factor is 0; expected the number that the latents are divided by"
        if self.scaling_factor is None and given:
            return "shift_factor comes without scaling_factor; expected both: 1.0 scales nothing"
        if given and not self.normalised:
            return "scaling_factor and normalised=False contradict each other; expected one of them, or neither"
        if self.num_frames is None and (self.fps is not None or self.video_format != "mp4"):
            return "fps and video_format are for videos; this job makes pictures: leave them out"
        if self.noise_scale > 0 and self.seed is None:
            return (
                "decode_noise_scale, or else decode_timestep, mixes noise in; expected a seed for it, or"
                " decode_noise_scale=0"
            )
        if self.output_type == "pil":
            return self._video_contradiction()
        if self.task == "encode":
            return "output_type='pt' is for decodes; an encode gives a tensor always"
        if self.image_format != "png" or self.video_format != "mp4" or self.quality is not None or self.lossless:
            return "output_type='pt' makes no file of pictures; leave formats, quality and lossless out"
        if self.tensor_bytes > MAX_TENSOR_BYTES:
            return (
                f"output_type='pt' gives a tensor of shape {self.tensor_shape}, {self.tensor_bytes} bytes; at most"
                f" {MAX_TENSOR_BYTES} are given back: submit several jobs, or take a file of pictures"
            )
        return None

    def _video_contradiction(self) -> str | None:
        if self.num_frames is None:
            return None
        if self.fps is None and self.video_format != "zip":
            return f"video_format={self.video_format!r} is played; expected fps, frames a second"
        if self.video_format == "mp4" and self.picture_channels == 4:
            return "video_format='mp4' has no alpha channel, which this VAE gives; use 'webp' or 'zip'"
        return None

    def to_json(self) -> str:
        """Write the spec without its defaults: a queued job should cost Redis little."""
        fields = self.model_dump_json(exclude_defaults=True, exclude={"version"})
        # A version is always written, though it is a default.
        return f'{{"version":{max(self.version, self._lowest_version())},{fields.removeprefix("{")}'

    def _lowest_version(self) -> int:
        """The first version whose readers do what is asked for."""
        if self.output_type == "pt" and self.tensor_bytes > MAX_REDIS_BYTES:
            return 5
        if self.num_frames is not None:
            return 4
        if self.output_type != "pil" or self.scaling_factor is not None:
            return 3
        if self.task == "encode" and not self.normalised:
            return 3
        plain = self.normalised and self.crop_height is None and self.crop_width is None
        return 1 if plain and self.task == "decode" and self.layout in FIRST_LAYOUTS else 2

    @classmethod
    def from_json(cls, text: str | bytes) -> "JobSpec":
        """Read a spec that came through Redis.

        Raises:
            UnsupportedVersion: another version of vaefarm wrote it.
            RefusedJob: it is no spec at all.
        """
        try:
            return cls.from_fields(json.loads(text))
        except ValueError as error:
            raise RefusedJob("the job's spec is no JSON object with a version: no producer wrote it") from error

    @classmethod
    def from_fields(cls, raw: Any) -> "JobSpec":
        """Read a spec out of its JSON object. Raises as `from_json`."""
        if not isinstance(raw, dict) or "version" not in raw:
            raise RefusedJob("the job's spec is no JSON object with a version: no producer wrote it")
        version = raw["version"]
        if version not in range(1, JOB_VERSION + 1):
            raise UnsupportedVersion(
                f"the job was written as version {version!r}; this worker reads versions up to {JOB_VERSION}:"
                " run the same vaefarm release on both sides"
            )
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            place = "".join(f"{part}: " for part in first["loc"])
            raise RefusedJob(f"the job's spec is not valid: {place}{first['msg']}") from error


def metadata_characters(metadata: dict[str, str]) -> int:
    """Characters of metadata, names and values."""
    return sum(len(name) + len(text) for name, text in metadata.items())
