"""From a tensor and options to a checked job; nothing is sent here, so a refusal queues nothing."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypedDict

from pydantic import ValidationError

from vaefarm_shared import checks, latents, tracing
from vaefarm_shared.catalogue import Contract
from vaefarm_shared.digests import digest_of, request_hash
from vaefarm_shared.errors import InvalidInput, InvalidLatents, InvalidOption
from vaefarm_shared.job import MAX_METADATA_CHARACTERS, JobSpec
from vaefarm_shared.job_ids import check_job_id, new_job_id

from . import option_checks

#: Options that are in a job's digest only where they say something else: jobs from before there were such keep theirs.
UNSAID: Final[dict[str, Any]] = {
    "output_type": "pil",
    **dict.fromkeys(("scaling_factor", "shift_factor", "decode_timestep", "decode_noise_scale", "decode_chunk_size")),
    "embed_metadata": True,
}


class JobOptions(TypedDict, total=False):
    """What a decode and an encode may both say."""

    reproducible: bool
    """Run alone, with no switch that changes bits: the diffusers pipeline's own picture, or latents, bit for bit."""
    producer: str
    """The producer's lane: within a priority, producers take turns."""
    priority: str
    """'high', 'normal' (default) or 'low'."""
    deadline_seconds: float | None
    """The job expires unless its decode begins within so many seconds."""
    metadata: dict[str, str]
    """Prompt, seed, whatever belongs to the picture: kept in the record, and written into the files as UIs read it."""
    embed_metadata: bool
    """False keeps metadata out of the files; the record has them all the same."""
    traceparent: str | None
    """W3C trace context, kept with the job; that of OpenTelemetry's current span unless given."""
    webhook: str | None
    """An http or https URL that a gateway tells of the job's end, if the operator allows its host."""
    result_seconds: int
    """How long the pictures are kept; a day unless given."""
    failure_seconds: int
    """How long a failed job is kept; a week unless given."""


class DecodeOptions(JobOptions, total=False):
    """What decides a decode besides latents, VAE and id."""

    height: int | None
    """Pixels; needed for packed latents, checked for others; where pipelines bin resolutions, what they were asked."""
    width: int | None
    """As height."""
    normalised: bool
    """False for latents that were denormalised already; unless said, as the VAE's pipelines return them."""
    scaling_factor: float | None
    """Divide the latents by it, in place of what the VAE's own constants do; not zero."""
    shift_factor: float | None
    """Add it after that division; only with scaling_factor."""
    output_type: str
    """'pil' (default): pictures. 'pt': what the decoder gives, float16 (n, channels, height, width), about [-1, 1]."""
    image_format: str
    """'png' (default, lossless), 'jpeg' or 'webp'; of a video the frames' in a zip."""
    num_frames: int | None
    """Frames of each video, as the pipeline got it; needed for LTX-Video's tokens and CogVideoX 1.5, else checked."""
    decode_timestep: float | None
    """Of LTX-Video 0.9.1 and later, as the pipeline's; 0 unless given."""
    decode_noise_scale: float | None
    """The same; decode_timestep unless given. Where it is above 0 a seed is needed."""
    decode_chunk_size: int | None
    """Of Stable Video Diffusion, as the pipeline's: frames decoded at a time; all of a video unless given."""
    seed: int | None
    """Of the noise that decode_noise_scale mixes in, or LTX-Video 0.9.1's decoder; drawn by a new generator."""
    fps: float | None
    """Frames a second of a video; those of its VAE's pipelines unless given."""
    video_format: str
    """'mp4' (default, H.264), 'webp' (animated) or 'zip' (of its frames)."""
    quality: int | None
    """1 to 100, for JPEG and lossy WebP; 90 unless given."""
    lossless: bool
    """WebP without loss."""
    tiling: bool
    """Allow tiles where the device is short of memory, though they change the picture visibly."""


class SubmitOptions(DecodeOptions, total=False):
    """What a submit may say besides latents, VAE and id."""

    preview: str | None
    """A VAE id, such as 'taesdxl': a quick picture first (`Job.preview`), by a VAE that takes the same latents."""


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job that passed every check: its spec, and its blob: the safetensors bytes of latents or images, or a picture's
    file."""

    spec: JobSpec
    packed: bytes
    #: The job of the same blob that is queued before it.
    preview: "PreparedJob | None" = None


@dataclass(frozen=True, slots=True)
class Template:
    """What jobs of one kind have in common: the spec but for id and digest, and the digest's beginning."""

    spec: JobSpec
    digest: "hashlib._Hash"

    def job(self, job_id: str, packed: bytes) -> PreparedJob:
        """The job of an id and its blob's bytes."""
        named = {"id": job_id, "request_hash": request_hash(self.digest, packed)}
        if self.spec.traceparent is None and (trace := tracing.current()) is not None:
            # The caller's now: the template is kept for jobs of other traces.
            named["traceparent"] = trace
        return PreparedJob(self.spec.model_copy(update=named), packed)


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """A job that passed every check, whose latents are as they were given."""

    template: Template
    id: str
    latents: latents.Latents

    def packed(self) -> PreparedJob:
        """The job, its latents packed."""
        return self.template.job(self.id, latents.pack(self.latents))


def prepare(tensor: Any, vae: str, contract: Contract, job_id: str | None, options: DecodeOptions) -> PreparedJob:
    """Check latents and options against a VAE's contract, and pack them. Raises as `check`."""
    return check(tensor, vae, contract, job_id, options).packed()


def check(tensor: Any, vae: str, contract: Contract, job_id: str | None, options: DecodeOptions) -> CheckedJob:
    """Check latents and options against a VAE's contract.

    Raises:
        InvalidLatents, InvalidJobId, InvalidOption: the first thing that is wrong, and what was expected.
    """
    job_id = new_job_id() if job_id is None else check_job_id(job_id)
    held = tensor if isinstance(tensor, latents.Latents) else latents.from_tensor(tensor)
    template = _template_for(vae, contract, held.shape, held.dtype, held.array.itemsize, options)
    if not held.is_finite():
        raise InvalidLatents(
            f"latents of shape {held.shape} hold NaN or Inf; expected finite values: the generation went wrong"
        )
    return CheckedJob(template, job_id, held)


def check_many(
    tensors: Iterable[Any],
    vae: str,
    contract: Callable[[str], Contract],
    job_ids: Sequence[str] | None,
    options: DecodeOptions,
) -> list[CheckedJob]:
    """As `check`, each of several: the message of a refusal names its place.

    Raises InvalidOption as well where there is not one id for each, and another one.
    """
    given = list(tensors)
    if job_ids is not None and len(job_ids) != len(given):
        raise InvalidOption(f"{len(job_ids)} job ids were given for {len(given)} latents; expected one each")
    if job_ids is not None and len(set(job_ids)) != len(job_ids):
        raise InvalidOption("a job id was given twice; expected a different one for each of the latents")
    checked: list[CheckedJob] = []
    for place, tensor in enumerate(given):
        try:
            checked.append(check(tensor, vae, contract(vae), job_ids[place] if job_ids else None, options))
        except InvalidInput as error:
            raise type(error)(f"latents {place}: {error}") from error
    return checked


def spec_of(shape: tuple[int, ...], dtype: str, vae: str, contract: Contract, options: DecodeOptions) -> JobSpec:
    """The spec of latents of which no values are known yet; its id and digest are placeholders.

    Raises InvalidLatents, InvalidOption.
    """
    latents.check_dtype(dtype)
    return _template_for(vae, contract, shape, dtype, latents.STORAGE[dtype]().itemsize, options).spec


def _template_for(
    vae: str, contract: Contract, shape: tuple[int, ...], dtype: str, itemsize: int, options: DecodeOptions
) -> Template:
    kind = vae, contract, shape, dtype, itemsize
    try:
        # A generator submits the same kind of job over and over. By type as well: 1 is True, and 1.0 is both.
        return _kept_template(*kind, tuple((name, type(value), value) for name, value in options.items()))
    except TypeError:
        # Metadata are a dictionary, which is no key.
        return _template(*kind, tuple((name, type(value), value) for name, value in options.items()))


def _template(
    vae: str,
    contract: Contract,
    shape: tuple[int, ...],
    dtype: str,
    itemsize: int,
    options: tuple[tuple[str, type, Any], ...],
) -> Template:
    """The template of jobs of that kind. Raises InvalidLatents, InvalidOption."""
    given = {name: value for name, _, value in options}
    sizes = (given.pop(name, None) for name in ("height", "width", "num_frames"))
    pictures = checks.check_shape(vae, contract, shape, *sizes)
    checks.check_bytes(shape, itemsize)
    check_options(given, DecodeOptions)
    option_checks.check_decode_arguments(given, vae, contract)
    if given.get("output_type") == "pt":
        option_checks.check_no_file(given)
    for name in ("fps", "seed"):
        if given.get(name) is None:
            given.pop(name, None)
    file_format = given.get("image_format", "png")
    if pictures.num_frames is not None and given.get("video_format", "mp4") != "zip":
        option_checks.check_of_frames(given)
        file_format = given.get("video_format", "mp4")
    if given.get("lossless") and file_format != "webp":
        raise InvalidOption("lossless is for webp; PNG always is, JPEG and MP4 never")
    sides = pictures.crop_height or pictures.height, pictures.crop_width or pictures.width
    option_checks.check_format(str(file_format), max(sides), vae, contract)
    return template_of(
        {
            "vae": vae,
            "dtype": dtype,
            "shape": shape,
            "layout": pictures.layout,
            "count": pictures.count,
            "height": pictures.height,
            "width": pictures.width,
            **_departures(pictures, contract, given),
            **given,
        }
    )


_kept_template = lru_cache(maxsize=64)(_template)


def template_of(wanted: dict[str, Any]) -> Template:
    """The template of what is wanted. Raises InvalidOption for what no spec allows."""
    said = {name: value for name, value in wanted.items() if name not in UNSAID or value != UNSAID[name]}
    try:
        spec = JobSpec(id="template", request_hash="", **said)
    except ValidationError as error:
        raise _invalid_option(error) from error
    # 1 and 1.0 are the same factor.
    said |= {name: getattr(spec, name) for name in ("scaling_factor", "shift_factor") if name in said}
    return Template(spec, digest_of(said))


def check_options(given: dict[str, Any], known: type) -> None:
    """Raise InvalidOption for an option that `known`, a TypedDict, does not name, and for metadata too long."""
    unknown = sorted(set(given) - set(known.__annotations__))
    if unknown:
        raise InvalidOption(f"option {unknown[0]!r} is not known; expected some of {', '.join(known.__annotations__)}")
    metadata = given.get("metadata") or {}
    if isinstance(metadata, dict) and sum(len(f"{k}{v}") for k, v in metadata.items()) > MAX_METADATA_CHARACTERS:
        raise InvalidOption(f"metadata has more than {MAX_METADATA_CHARACTERS} characters; expected fewer")
    traceparent = given.get("traceparent")
    if isinstance(traceparent, str) and not tracing.is_traceparent(traceparent):
        raise InvalidOption(
            f"traceparent={traceparent[:80]!r} is none: expected 00-TRACE-SPAN-FLAGS of 32, 16 and 2 hex digits in"
            " lower case, as W3C's Trace Context has it"
        )


def _departures(pictures: checks.Pictures, contract: Contract, given: dict[str, Any]) -> dict[str, Any]:
    """What few jobs say: what others leave out must not be in their digest."""
    said: dict[str, Any] = {"crop_height": pictures.crop_height, "crop_width": pictures.crop_width}
    if pictures.num_frames is not None:
        said |= {"num_frames": pictures.num_frames, "fps": contract.fps}
    if contract.picture_channels != 3:
        said["picture_channels"] = contract.picture_channels
    if contract.denormalised and given.get("scaling_factor") is None:
        said["normalised"] = False
    return {name: value for name, value in said.items() if value is not None}


def _invalid_option(error: ValidationError) -> InvalidOption:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return InvalidOption(f"{place}={first['input']!r}: {first['msg']}" if place else first["msg"])
