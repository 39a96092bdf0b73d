"""What requests and answers hold: these models validate, and the OpenAPI document is made from them."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from vaefarm_shared.job import MAX_FPS, MAX_SECONDS, MIN_FPS, ImageFormat, JobStatus, Priority, Task, VideoFormat
from vaefarm_shared.previews import Put
from vaefarm_shared.quarantine import Device
from vaefarm_shared.records import DecodeReport
from vaefarm_shared.workers import WorkerEndpoint

#: What a safetensors file is called.
SAFETENSORS: Final[str] = "application/safetensors"

Dtype = Literal["float16", "bfloat16", "float32", "uint8"]


class Options(BaseModel):
    """What a job may say besides its bytes; as `SubmitOptions` and `EncodeOptions` of the Python client."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vae: Annotated[str, Field(description="VAE id, such as sdxl.", pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    task: Annotated[Task, Field(description="decode latents, or encode an image.")] = "decode"
    height: Annotated[int | None, Field(ge=1, le=65536, description="Pixels; needed for packed latents.")] = None
    width: Annotated[int | None, Field(ge=1, le=65536, description="Pixels; needed for packed latents.")] = None
    normalised: Annotated[
        bool | None, Field(description="False for latents that were denormalised already, or shall stay unscaled.")
    ] = None
    preview: Annotated[
        str | None, Field(description="VAE id of a quick picture first.", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    ] = None
    output_type: Annotated[
        Literal["pil", "pt"] | None, Field(description="pil: pictures; pt: the decoder's raw float16 tensor.")
    ] = None
    scaling_factor: Annotated[float | None, Field(description="In place of the VAE's own scaling.")] = None
    shift_factor: Annotated[float | None, Field(description="In place of the VAE's own shift.")] = None
    image_format: ImageFormat | None = None
    num_frames: Annotated[int | None, Field(ge=1, description="Of a video; needed for tokens, else checked.")] = None
    fps: Annotated[
        float | None, Field(ge=MIN_FPS, le=MAX_FPS, description="Of a video; its VAE's pipelines' unless given.")
    ] = None
    video_format: Annotated[
        VideoFormat | None, Field(description="mp4 (H.264), webp (animated), or a zip of frames in image_format.")
    ] = None
    quality: Annotated[
        int | None, Field(ge=1, le=100, description="For jpeg, lossy webp and mp4; 90 unless given.")
    ] = None
    lossless: Annotated[bool | None, Field(description="WebP without loss.")] = None
    tiling: Annotated[bool | None, Field(description="Allow tiles where the device is short of memory.")] = None
    reproducible: Annotated[bool | None, Field(description="The pipeline's own picture, bit for bit.")] = None
    decode_timestep: Annotated[float | None, Field(ge=0, le=1, description="Of LTX-Video; the pipeline's.")] = None
    decode_noise_scale: Annotated[float | None, Field(ge=0, le=1, description="The same; with a seed.")] = None
    decode_chunk_size: Annotated[
        int | None, Field(ge=1, description="Of Stable Video Diffusion: frames decoded at a time.")
    ] = None
    seed: Annotated[
        int | None, Field(ge=0, lt=2**64, description="Of an encode: sample the posterior; of a decode: its noise.")
    ] = None
    producer: Annotated[str | None, Field(description="The lane; lanes take turns.")] = None
    priority: Priority | None = None
    deadline_seconds: Annotated[
        float | None, Field(gt=0, le=MAX_SECONDS, description="Expires unless begun by then.")
    ] = None
    metadata: Annotated[
        dict[str, str] | None, Field(description="Kept in the record, and written into the files: prompt, seed ...")
    ] = None
    embed_metadata: Annotated[bool | None, Field(description="False keeps metadata out of the files.")] = None
    traceparent: Annotated[str | None, Field(description="W3C trace context; else the header's.")] = None
    result_seconds: Annotated[int | None, Field(ge=1, le=MAX_SECONDS, description="How long the result is kept.")] = (
        None
    )
    failure_seconds: Annotated[
        int | None, Field(ge=1, le=MAX_SECONDS, description="How long a failed job is kept.")
    ] = None
    webhook: Annotated[str | None, Field(description="URL that is told of the job's end.")] = None


class TensorOptions(Options):
    """Options of a job whose body is a raw tensor: bytes in C order, little-endian, without a header."""

    shape: Annotated[tuple[int, ...] | None, Field(description="Of a raw tensor: its shape.", max_length=8)] = None
    dtype: Annotated[Dtype | None, Field(description="Of a raw tensor: its dtype.")] = None


class StepOptions(BaseModel):
    """What the preview of a step's latents may say besides its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vae: Annotated[str, Field(description="VAE id, such as taesdxl.", pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    height: Annotated[int | None, Field(ge=1, le=65536, description="Pixels; needed for packed latents.")] = None
    width: Annotated[int | None, Field(ge=1, le=65536, description="Pixels; needed for packed latents.")] = None
    producer: Annotated[str | None, Field(description="The lane; lanes take turns.")] = None
    priority: Priority | None = None
    shape: Annotated[tuple[int, ...] | None, Field(description="Of a raw tensor: its shape.", max_length=8)] = None
    dtype: Annotated[Dtype | None, Field(description="Of a raw tensor: its dtype.")] = None


class StepAnswer(BaseModel):
    """What became of a step's preview."""

    verdict: Annotated[
        Put,
        Field(
            description="queued: it waits, in the place of one that did; same: it was sent before; busy: a worker has"
            " an earlier one, so send the newest again; ended: the job has, and takes no more."
        ),
    ]


class BatchQuery(TensorOptions):
    """What holds of each job of a batch that does not say otherwise."""

    vae: Annotated[str | None, Field(description="VAE id, such as sdxl.")] = None  # type: ignore[assignment]


class Problem(BaseModel):
    """Why a request was not done."""

    error: Annotated[str, Field(description="What was wrong, what was expected, what to do.")]
    code: Annotated[str, Field(description="The class of the error, such as JobNotFound.")]


class StoredAnswer(BaseModel):
    """One stored picture, or tensor."""

    index: int
    url: Annotated[str, Field(description="Where it is, for holders of a key.")]
    signed_url: Annotated[str, Field(description="Where it is, for whoever has this URL, for a while.")]
    direct_url: Annotated[
        str | None, Field(description="Where it is in S3, if it is, for whoever has this URL, for a shorter while.")
    ] = None
    size_bytes: int


class JobAnswer(BaseModel):
    """How a job stands."""

    id: str
    status: JobStatus
    reason: Annotated[str | None, Field(description="Why it failed, expired or was canceled.")] = None
    last_error: str | None = None
    vae: str | None = None
    owner: str
    position: Annotated[int | None, Field(description="Place in its queue, from 1, while it waits.")] = None
    eta_seconds: Annotated[float | None, Field(description="Seconds to its end, as far as one can tell.")] = None
    queued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    attempts: int = 0
    worker: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    report: Annotated[DecodeReport | None, Field(description="How it was made; a blob is the path of its bytes.")] = (
        None
    )
    url: str
    events_url: Annotated[str, Field(description="Server-sent events of this job, for whoever has this URL.")]
    results: list[StoredAnswer] = Field(default_factory=list)


class BatchEntry(BaseModel):
    """One job of a batch: accepted, or why not."""

    id: str
    status: JobStatus | None = None
    url: str | None = None
    error: str | None = None
    code: str | None = None
    retry_after_seconds: Annotated[float | None, Field(description="When to send it again.")] = None


class BatchAnswer(BaseModel):
    """What became of each job of a batch, in its order."""

    jobs: list[BatchEntry]


class StatusQuery(BaseModel):
    """Jobs that are asked for at once."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[str], Field(max_length=1000)]


class StatusAnswer(BaseModel):
    """The status of each job in the order asked; null for one that is unknown."""

    statuses: list[JobStatus | None]


class QueueAnswer(BaseModel):
    """A queue and its depth."""

    name: str
    queued: int


class QueuesAnswer(BaseModel):
    """Every queue, and which VAEs are paused."""

    queues: list[QueueAnswer]
    paused: list[str]
    queued: Annotated[int, Field(description="Jobs that wait, but for those of paused VAEs.")]
    backlog_seconds: Annotated[
        float, Field(description="Device seconds that these take; a second each where none of their VAE was decoded.")
    ]


class WorkersAnswer(BaseModel):
    """What each living worker says of itself."""

    workers: list[dict[str, Any]]


class EndpointsAnswer(BaseModel):
    """The remote endpoints that living workers ask, one for each worker."""

    endpoints: list[WorkerEndpoint]


class VaeAnswer(BaseModel):
    """One VAE: what latents for it must look like, and whether a worker serves it now."""

    id: str
    description: str = ""
    contract: dict[str, Any]
    workers: int
    paused: bool
    queued: int
    backlog_seconds: Annotated[
        float,
        Field(description="Device seconds that these take; a second each where none was decoded, 0 while paused."),
    ]


class VaesAnswer(BaseModel):
    """The VAEs of the farm."""

    vaes: list[VaeAnswer]


class ListQuery(BaseModel):
    """Of which jobs a list is."""

    model_config = ConfigDict(extra="forbid")

    vae: Annotated[str | None, Field(description="Of this VAE; of all unless given.")] = None
    limit: Annotated[int | None, Field(ge=1, le=10**9, description="Jobs at most; all unless given.")] = None


class PictureQuery(BaseModel):
    """How a picture's bytes come."""

    redirect: Annotated[
        bool | None, Field(description="Answer 307 with a direct link where they lie in S3; the bytes otherwise.")
    ] = None


class EventsQuery(BaseModel):
    """Which events a stream tells."""

    status: Annotated[str | None, Field(description="Statuses between commas; all unless given.")] = None


class QueuedQuery(ListQuery):
    """Of which waiting jobs a list is."""

    vae: Annotated[str, Field(description="Of this VAE.")]


class DevicesQuery(BaseModel):
    """Which devices are listed."""

    model_config = ConfigDict(extra="forbid")

    quarantined: Annotated[bool, Field(description="Those alone that no worker uses: quick.")] = False


class DevicesAnswer(BaseModel):
    """Devices that workers have, that failed of late or are quarantined."""

    devices: list[Device]


class ChangedAnswer(BaseModel):
    """Whether anything was changed; false where it was so already."""

    changed: bool


class WebhookSecret(BaseModel):
    """What the caller's webhooks are signed with, as Standard Webhooks writes it."""

    secret: str
