"""What pipelines of diffusers return with `output_type="latent"`, by their class. Imports neither torch nor diffusers.

spatial: latents that say their size themselves.
packed: tokens, which need the height and width that the pipeline was called with.
binned: spatial latents of the nearest trained size; the picture is resized and cropped to the one asked for.
denormalised: the decoder's own input, made with the pipeline's VAE.
video: latents of videos, which say their size themselves, and but for CogVideoX 1.5 how many frames they are.
video_tokens: tokens of videos, which need the frames, height and width that the pipeline was called with.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from vaefarm_shared.errors import InvalidOption

Kind = Literal["spatial", "packed", "binned", "denormalised", "video", "video_tokens"]

#: Those of pipelines that make videos, and give them as `frames`.
VIDEO_KINDS: Final[frozenset[Kind]] = frozenset({"video", "video_tokens"})

#: Classes of diffusers whose `__call__` a test holds to the farm's picture, and the latents that it returns.
KINDS: Final[Mapping[str, Kind]] = {
    "StableDiffusionPipeline": "spatial",
    "StableDiffusionImg2ImgPipeline": "spatial",
    "StableDiffusionInpaintPipeline": "spatial",
    "StableDiffusionXLPipeline": "spatial",
    "StableDiffusionXLImg2ImgPipeline": "spatial",
    "StableDiffusionXLInpaintPipeline": "spatial",
    "StableDiffusion3Pipeline": "spatial",
    "StableDiffusion3Img2ImgPipeline": "spatial",
    "KolorsPipeline": "spatial",
    "AuraFlowPipeline": "spatial",
    "CogView4Pipeline": "spatial",
    "HunyuanImagePipeline": "spatial",
    "Lumina2Pipeline": "spatial",
    "ZImagePipeline": "spatial",
    "PixArtAlphaPipeline": "binned",
    "PixArtSigmaPipeline": "binned",
    "SanaPipeline": "binned",
    "ChromaPipeline": "packed",
    "FluxPipeline": "packed",
    "FluxImg2ImgPipeline": "packed",
    "Flux2Pipeline": "packed",
    "QwenImagePipeline": "packed",
    "QwenImage21Pipeline": "packed",
    "Flux2KleinPipeline": "denormalised",
    "CogVideoXPipeline": "video",
    "HunyuanVideoPipeline": "video",
    "HunyuanVideo15Pipeline": "video",
    "LTXConditionPipeline": "video",
    "LTX2Pipeline": "video",
    "MochiPipeline": "video",
    "StableVideoDiffusionPipeline": "video",
    "WanPipeline": "video",
    "LTXPipeline": "video_tokens",
}

#: Every kind, for messages.
NAMES: Final[str] = f"{', '.join(map(repr, get_args(Kind)[:-1]))} or {get_args(Kind)[-1]!r}"


def kind_of(pipeline: Any) -> Kind:
    """The kind of latents that a pipeline returns: that of the class of diffusers whose `__call__` it runs.

    Raises:
        InvalidOption: the class is not known, or it is no pipeline.
    """
    owner = next((one for one in type(pipeline).__mro__ if "__call__" in vars(one)), type(pipeline))
    if owner.__module__.startswith("diffusers.") and owner.__name__ in KINDS:
        return KINDS[owner.__name__]
    raise InvalidOption(
        f"the latents of a {type(pipeline).__name__} are not known here; known are those of {', '.join(sorted(KINDS))}."
        f" Say what it returns with output_type='latent' (latents={NAMES}), or submit that yourself"
    )


def check_kind(kind: Kind) -> Kind:
    """Raise InvalidOption unless it is one of those."""
    if kind not in get_args(Kind):
        raise InvalidOption(f"latents={kind!r}; expected {NAMES}")
    return kind


def check_previews(pipeline: Any, kind: Kind) -> None:
    """Raise InvalidOption unless there can be previews of a pipeline's steps."""
    name = type(pipeline).__name__
    if kind in VIDEO_KINDS:
        raise InvalidOption(f"a preview is a picture, and a {name} makes videos; leave preview out")
    if kind == "denormalised":
        raise InvalidOption(f"a preview's VAE takes latents as they are within a {name}, and knows none of its kind")
    if "callback_on_step_end" not in inspect.signature(type(pipeline).__call__).parameters:
        raise InvalidOption(f"{name} tells nobody of its steps (callback_on_step_end); leave preview out, or submit it")
