"""Which jobs previews are: of a job's latents, or of those of a step before it."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

from vaefarm_shared import checks
from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import InvalidInput, InvalidJobId, InvalidLatents, InvalidOption
from vaefarm_shared.job import ImageFormat, JobSpec
from vaefarm_shared.job_ids import check_job_id
from vaefarm_shared.previews import MAX_JOB_ID, STEP_SECONDS, preview_id

from .option_checks import MAX_SIDES
from .submission import CheckedJob, DecodeOptions, PreparedJob, SubmitOptions, check_many, prepare

#: What a preview's picture is: a small file, quickly made, unless the VAE gives alpha.
FORMAT: Final[ImageFormat] = "jpeg"
FORMAT_WITH_ALPHA: Final[ImageFormat] = "png"

#: What of its job's spec a preview's has as well.
SHARED: Final[tuple[str, ...]] = (
    *("dtype", "shape", "layout", "count", "height", "width", "producer", "owner", "priority", "result_seconds"),
)


def prepare_with_preview(
    tensor: Any, vae: str, contract_of: Callable[[str], Contract], job_id: str | None, options: SubmitOptions
) -> PreparedJob:
    """Check latents and options, and pack them; with the preview that is asked for.

    Raises InvalidLatents, InvalidJobId, InvalidOption, UnknownVae.
    """
    own: dict[str, Any] = dict(options)
    preview = own.pop("preview", None)
    job = prepare(tensor, vae, contract_of(vae), job_id, cast("DecodeOptions", own))
    return job if preview is None else with_preview(job, preview, contract_of(preview))


def check_many_with_previews(
    tensors: Iterable[Any],
    vae: str,
    contract_of: Callable[[str], Contract],
    job_ids: Sequence[str] | None,
    options: SubmitOptions,
) -> list[Callable[[], PreparedJob]]:
    """As `check_many`: what packs each of several jobs with the previews that are asked for."""
    own: dict[str, Any] = dict(options)
    preview = own.pop("preview", None)
    checked = check_many(tensors, vae, contract_of, job_ids, cast("DecodeOptions", own))
    if preview is None:
        return [one.packed for one in checked]
    contract = contract_of(preview)
    for place, one in enumerate(checked):
        try:
            check_preview(one.id, one.template.spec, preview, contract)
        except InvalidInput as error:
            raise type(error)(f"latents {place}: {error}") from error
    return [partial(_packed, one, preview, contract) for one in checked]


def _packed(one: CheckedJob, preview: str, contract: Contract) -> PreparedJob:
    return with_preview(one.packed(), preview, contract)


def check_preview(job_id: str, spec: JobSpec, vae: str, contract: Contract) -> None:
    """Raise InvalidOption where a VAE makes no preview of a job, InvalidJobId where its id is too long for one."""
    id_of_preview(job_id)
    check_picture(vae, contract)
    if vae == spec.vae:
        raise InvalidOption(f"preview={vae!r} is the job's own VAE; expected a quicker one, such as 'taesdxl'")
    if not spec.normalised:
        raise InvalidOption(
            "a preview's VAE takes latents as a pipeline returns them, and normalised=False says otherwise"
        )
    sizes = (spec.height, spec.width) if len(spec.shape) == 3 else ()
    try:
        pictures = checks.check_shape(vae, contract, spec.shape, *sizes)
    except InvalidLatents as error:
        raise InvalidOption(f"preview={vae!r} takes other latents than VAE {spec.vae!r}: {error}") from error
    if (pictures.layout, pictures.height, pictures.width) != (spec.layout, spec.height, spec.width):
        raise InvalidOption(
            f"preview={vae!r} takes other latents than VAE {spec.vae!r}: of these it makes pictures of {pictures.width}"
            f" x {pictures.height} pixels, not of {spec.width} x {spec.height}; take one of the same family"
        )


def check_picture(vae: str, contract: Contract) -> None:
    """Raise InvalidOption for a VAE that makes videos."""
    if contract.temporal_scale is not None:
        raise InvalidOption(f"VAE {vae!r} makes videos, and a preview is a picture; expected a VAE for pictures")


def with_preview(job: PreparedJob, vae: str, contract: Contract) -> PreparedJob:
    """A job with a preview by another VAE. Raises as `check_preview`."""
    spec = job.spec
    check_preview(spec.id, spec, vae, contract)
    preview = JobSpec(
        id=id_of_preview(spec.id),
        vae=vae,
        # Of the same latents: they need not be read again.
        request_hash=hashlib.sha256(f"{spec.request_hash} {vae}".encode()).hexdigest()[:32],
        image_format=format_of(contract, max(spec.height, spec.width)),
        picture_channels=contract.picture_channels,
        **{name: getattr(spec, name) for name in SHARED},
    )
    return replace(job, preview=PreparedJob(preview, job.packed))


def check_family(vae: str, contract: Contract, preview: str, preview_contract: Contract) -> None:
    """Raise InvalidOption for a preview's VAE that takes other latents than the job's, before there are any."""
    kinds = [(one.latent_channels, one.spatial_scale) for one in (contract, preview_contract)]
    if kinds[0] != kinds[1]:
        raise InvalidOption(
            f"preview={preview!r} takes latents of {kinds[1][0]} channels at {kinds[1][1]} pixels each, VAE {vae!r} of"
            f" {kinds[0][0]} at {kinds[0][1]}; take one of the same family"
        )


def prepare_step(
    tensor: Any, vae: str, contract: Contract, job_id: str, options: DecodeOptions | None = None
) -> PreparedJob:
    """The preview of a step's latents: of a job that is yet to come, with the VAE's id and contract.

    Raises InvalidLatents, InvalidJobId, InvalidOption.
    """
    preview = id_of_preview(check_job_id(job_id))
    check_picture(vae, contract)
    chosen: DecodeOptions = {"result_seconds": STEP_SECONDS, **(options or {})}
    job = prepare(tensor, vae, contract, None, {"image_format": FORMAT_WITH_ALPHA, **chosen})
    picture = {"image_format": format_of(contract, max(job.spec.height, job.spec.width)), "traceparent": None}
    return PreparedJob(job.spec.model_copy(update={"id": preview, **picture}), job.packed)


def id_of_preview(job_id: str) -> str:
    """The id of a job's preview. Raises InvalidJobId for a job whose id is too long for that."""
    if len(job_id) > MAX_JOB_ID:
        raise InvalidJobId(
            f"job id {job_id!r} has {len(job_id)} characters; expected at most {MAX_JOB_ID} of a job with a preview"
        )
    return preview_id(job_id)


def format_of(contract: Contract, side: int) -> ImageFormat:
    """The format of a preview's picture; `side`: pixels of its longest."""
    return FORMAT if contract.picture_channels == 3 and side <= MAX_SIDES[FORMAT] else FORMAT_WITH_ALPHA
