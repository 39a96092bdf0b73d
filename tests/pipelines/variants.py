"""Pipelines that begin with a picture, made of the components of those that begin with noise."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from diffusers import (
    FluxImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from PIL import Image
from tests.parity.case import Case
from tests.parity.pipelines import case


def picture() -> Image.Image:
    """96 x 64 pixels of coarse noise, the same ones each time."""
    coarse = np.random.default_rng(5).integers(0, 256, (12, 8, 3), np.uint8)
    return Image.fromarray(coarse.repeat(8, 0).repeat(8, 1))


def mask() -> Image.Image:
    """Its lower half is painted anew."""
    pixels = np.zeros((96, 64), np.uint8)
    pixels[48:] = 255
    return Image.fromarray(pixels)


def _variant(name: str, base: str, pipeline_class: Any, **more: Any) -> Case:
    one = case(base)
    arguments = {**one.arguments, "image": picture(), "strength": 0.9, **more}
    return replace(one, name=name, pipeline=pipeline_class(**one.pipeline.components), arguments=arguments)


def _sizeless(one: Case) -> Case:
    """Without the size, which pipelines of this kind read from the picture."""
    return replace(one, arguments={k: v for k, v in one.arguments.items() if k not in ("height", "width")})


VARIANTS: Final[dict[str, Callable[[], Case]]] = {
    "sd-img2img": lambda: _sizeless(
        _variant("sd-img2img", "stable-diffusion", StableDiffusionImg2ImgPipeline, image=[picture(), picture()])
    ),
    "sd-inpaint": lambda: _variant("sd-inpaint", "stable-diffusion", StableDiffusionInpaintPipeline, mask_image=mask()),
    "xl-img2img": lambda: _sizeless(_variant("xl-img2img", "stable-diffusion-xl", StableDiffusionXLImg2ImgPipeline)),
    "xl-inpaint": lambda: _variant(
        "xl-inpaint", "stable-diffusion-xl", StableDiffusionXLInpaintPipeline, mask_image=mask()
    ),
    "sd3-img2img": lambda: _variant("sd3-img2img", "stable-diffusion-3", StableDiffusion3Img2ImgPipeline),
    "flux-img2img": lambda: _variant("flux-img2img", "flux", FluxImg2ImgPipeline),
}
