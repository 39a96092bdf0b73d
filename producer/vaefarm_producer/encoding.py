"""From an image and options to a checked encode; nothing is sent here, so a refusal queues nothing."""

from typing import Any

from vaefarm_shared import latents
from vaefarm_shared.catalogue import Contract
from vaefarm_shared.images import from_image, latents_shape
from vaefarm_shared.job_ids import check_job_id, new_job_id

from .submission import JobOptions, PreparedJob, check_options, template_of


class EncodeOptions(JobOptions, total=False):
    """What an encode may say besides image, VAE and id."""

    seed: int | None
    """Sample the posterior with this seed, as a pipeline with a CPU generator does; its mode unless given."""
    normalised: bool
    """False for latents as the encoder gives them, unscaled; as an img2img pipeline holds them unless given."""
    scaling_factor: float | None
    """Multiply the latents by it, in place of what the VAE's own constants do; not zero."""
    shift_factor: float | None
    """Subtract it before that; only with scaling_factor."""


def prepare_encode(image: Any, vae: str, contract: Contract, job_id: str | None, options: EncodeOptions) -> PreparedJob:
    """Check an image and options against a VAE's contract, and make the bytes that travel.

    Of a picture's file those are its own; it is opened here to be checked, and once more by the worker.

    Raises:
        InvalidPicture, InvalidJobId, InvalidOption: the first thing that is wrong, and what was expected.
    """
    given: dict[str, Any] = dict(options)
    job_id = new_job_id() if job_id is None else check_job_id(job_id)
    check_options(given, EncodeOptions)
    if given.get("normalised") is True:
        del given["normalised"]
    images = from_image(image, contract.max_pixels)
    count, (height, width) = images.shape[0], images.size
    from_file = isinstance(image, bytes | bytearray | memoryview)
    wanted = {
        "task": "encode",
        "vae": vae,
        "dtype": images.dtype,
        "from_file": from_file,
        "shape": latents_shape(vae, contract, count, height, width),
        "layout": "spatial",
        "count": count,
        "height": height,
        "width": width,
        **given,
    }
    return template_of(wanted).job(job_id, bytes(image) if from_file else latents.pack(images))
