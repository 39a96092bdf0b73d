"""From a claim to latents: what anybody may have written is compared, validated and bounded before memory is taken."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from vaefarm_shared import checks, images, latents, rq_bridge
from vaefarm_shared.blob_names import NAME_PATTERN
from vaefarm_shared.blobs import SCHEMES, BlobStore
from vaefarm_shared.errors import EncodesNothing, FarmError, InvalidPicture, RefusedJob
from vaefarm_shared.job import ADMIN, JobSpec
from vaefarm_shared.leases import Claim, ClaimedJob
from vaefarm_shared.pictures import MAX_PICTURE_BYTES

from .decoder import BatchItem, Decoder
from .lacks import Lack, check_lacks


@dataclass(frozen=True, slots=True)
class Loaded:
    """A claimed job, read and checked."""

    claim: Claim
    item: BatchItem
    latent_reference: str
    #: Device seconds that its lane was charged.
    cost_seconds: float
    alone: bool
    #: The number of the attempt, where it has begun with the claim.
    begun: int | None = None

    @property
    def spec(self) -> JobSpec:
        """What was asked."""
        return self.item.spec

    @property
    def seconds_queued(self) -> float:
        """From submit to claim, by Redis' clock."""
        return max(0.0, self.claim.claimed_at - (self.claim.queued_at or self.claim.claimed_at))


@dataclass(frozen=True, slots=True)
class Plain:
    """A plain RQ job of our kind, as `rq.Queue.enqueue` left it."""

    claim: Claim
    spec: JobSpec
    latent_reference: str


@dataclass(frozen=True, slots=True)
class Unloadable:
    """A claimed job that no decode can take, and why."""

    claim: Claim
    error: Exception


def load(
    blobs: BlobStore,
    decoder: Decoder,
    claimed: Sequence[ClaimedJob],
    *,
    exact: bool = False,
    embed_metadata: bool = True,
    lacks: Collection[Lack] = (),
) -> list[Loaded | Plain | Unloadable]:
    """Read the latents of claimed jobs, in one round trip unless they came with them, and check everything about them.

    Args:
        exact: Whether each is reproducible, whatever it says.
        embed_metadata: False keeps metadata out of each one's files, whatever it says.
        lacks: What this worker lacks: who needs it is not loaded.

    Raises what redis-py raises while Redis is away: nothing was changed.
    """
    changes = ({"reproducible": True} if exact else {}) | ({} if embed_metadata else {"embed_metadata": False})
    checked = [_checked(decoder, one, changes, lacks) for one in claimed]
    wanted = [
        (job.latent_reference, _most_bytes(spec))
        for job, spec in zip(claimed, checked, strict=True)
        if isinstance(spec, JobSpec) and not job.latent
    ]
    found = iter(blobs.get_many(wanted) if wanted else ())
    return [
        _loaded(job, spec, job.latent or next(found)) if isinstance(spec, JobSpec) else spec
        for job, spec in zip(claimed, checked, strict=True)
    ]


def _checked(
    decoder: Decoder, job: ClaimedJob, changes: dict[str, bool], lacks: Collection[Lack]
) -> JobSpec | Plain | Unloadable:
    """The spec of a job that may be decoded, as the operator changes it; else what it is."""
    claim = job.claim
    try:
        if not job.spec and not job.latent_reference:
            return _plain(decoder, job)
        refusal = rq_bridge.refusal(job.rq_data_bytes, job.rq_meta_bytes, job.rq_data, job.rq_hooks)
        if refusal is not None:
            raise RefusedJob(f"the job is refused: {refusal}")
        check_latent(job.latent_reference)
        if claim.queued_at is None:
            raise RefusedJob(
                "the job is refused: its record has no time at which it was queued; submit it with vaefarm"
            )
        spec = JobSpec.from_json(job.spec)
        if spec.id != claim.job_id:
            raise RefusedJob(f"the job is refused: its spec is of job {spec.id!r}")
        _check_pictures(decoder, spec)
        check_lacks(spec, lacks)
        return spec.model_copy(update=changes) if changes else spec
    except Exception as error:
        return Unloadable(claim, error)


def _plain(decoder: Decoder, job: ClaimedJob) -> Plain | Unloadable:
    hooked = bool(job.rq_meta_bytes) or any(job.rq_hooks)
    argument = None if hooked else rq_bridge.plain_argument(job.rq_data)
    if argument is None:
        refusal = rq_bridge.refusal(job.rq_data_bytes, job.rq_meta_bytes, job.rq_data, job.rq_hooks)
        raise RefusedJob(f"the job is refused: {refusal or 'its record has no spec; submit it with vaefarm'}")
    reference = str(argument.pop("latent", ""))
    check_latent(reference)
    spec = JobSpec.from_fields(argument | {"id": job.claim.job_id, "owner": ADMIN})
    _check_pictures(decoder, spec)
    return Plain(job.claim, spec, reference)


def check_latent(reference: str) -> None:
    """Raise RefusedJob unless a reference is a latent's: a key of another kind, or a path, is nobody's latent."""
    scheme, _, name = reference.partition(":")
    if scheme not in SCHEMES or not name.startswith("latent:") or not NAME_PATTERN.fullmatch(name):
        shown = f"{reference[:100]!r} as its latent" if reference else "no latent"
        raise RefusedJob(f"the job is refused: its record names {shown}; submit it with vaefarm")


def _check_pictures(decoder: Decoder, spec: JobSpec) -> None:
    if spec.vae not in decoder.vaes:
        raise RefusedJob(f"the job is refused: its spec is of VAE {spec.vae!r}, its queue of another")
    contract = decoder.vaes[spec.vae].contract
    if spec.task == "encode":
        _check_encode(decoder, spec)
        return
    latents.check_dtype(spec.dtype)
    pictures = checks.check_shape(spec.vae, contract, spec.shape, *spec.picture_size, spec.num_frames)
    sizes = (spec.height, spec.width, spec.crop_height, spec.crop_width, spec.num_frames)
    said = checks.Pictures(spec.layout, spec.count, *sizes)
    if pictures != said:
        raise RefusedJob(f"the job is refused: its spec says {spec.height} x {spec.width}, its shape {spec.shape}")
    if spec.picture_channels != contract.picture_channels:
        raise RefusedJob(
            f"the job is refused: its spec says {spec.picture_channels} channels of colour, VAE {spec.vae!r} gives"
            f" {contract.picture_channels}"
        )
    checks.check_bytes(spec.shape, _itemsize(spec))


def _check_encode(decoder: Decoder, spec: JobSpec) -> None:
    served = decoder.vaes[spec.vae]
    shape = images.latents_shape(spec.vae, served.contract, spec.count, spec.height, spec.width)
    if (spec.shape, spec.layout) != (shape, "spatial"):
        raise RefusedJob(f"the job is refused: its spec says {spec.layout} latents of {spec.shape}, not {shape}")
    if spec.from_file and (spec.count, spec.dtype) != (1, "uint8"):
        raise RefusedJob(f"the job is refused: its spec says {spec.count} pictures of {spec.dtype} in one file")
    if images.tensor_bytes(spec) > checks.MAX_LATENT_BYTES:
        raise RefusedJob(f"the job is refused: its image tensor has more than {checks.MAX_LATENT_BYTES} bytes")
    if not served.encodes:
        raise EncodesNothing("this worker only decodes (--decode-only): an encode goes to another")


def _itemsize(spec: JobSpec) -> int:
    return int(np.dtype(latents.STORAGE[spec.dtype]).itemsize)


def _most_bytes(spec: JobSpec) -> int:
    if spec.task == "encode":
        return MAX_PICTURE_BYTES if spec.from_file else images.tensor_bytes(spec) + latents.MAX_HEADER_BYTES
    return prod(spec.shape) * _itemsize(spec) + latents.MAX_HEADER_BYTES


def _loaded(job: ClaimedJob, spec: JobSpec, data: bytes | Exception | None) -> Loaded | Unloadable:
    reference = job.latent_reference
    try:
        if isinstance(data, Exception):
            raise data
        if data is None and not reference.startswith("redis:"):
            place = "bucket" if reference.startswith("s3:") else "folder"
            raise FileNotFoundError(f"{reference} is not in this worker's {place} of blobs (VAEFARM_STORE)")
        if data is None:
            raise FarmError(f"its latent {reference} is gone; submit the job again")
        if len(data) > _most_bytes(spec):
            raise RefusedJob(f"the job is refused: its latent has more than the {_most_bytes(spec)} bytes of its shape")
        if spec.task == "encode":
            return _taken(job, BatchItem(spec, _images(data, spec)))
        held = latents.unpack(data)
        if (held.shape, held.dtype) != (spec.shape, spec.dtype):
            raise RefusedJob(f"the job is refused: its latent is {held.dtype} {held.shape}, its spec says otherwise")
        return _taken(job, BatchItem(spec, held))
    except Exception as error:
        return Unloadable(job.claim, error)


def _taken(job: ClaimedJob, item: BatchItem) -> Loaded:
    return Loaded(job.claim, item, job.latent_reference, job.cost_seconds, job.alone, job.begun)


def _images(data: bytes, spec: JobSpec) -> images.Images:
    try:
        return images.unpack(data, spec)
    except InvalidPicture as error:
        raise RefusedJob(f"the job is refused: {error}") from error
