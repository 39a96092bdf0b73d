"""Every case of parity, by its name."""

from collections.abc import Callable
from functools import cache
from typing import Final

from tests.parity import binned, packed, spatial, unets
from tests.parity.case import Case

BUILDERS: Final[dict[str, Callable[[], Case]]] = {
    "stable-diffusion": unets.stable_diffusion,
    "taesd": unets.taesd,
    "stable-diffusion-xl": unets.stable_diffusion_xl,
    "playground": unets.playground,
    "taesdxl": unets.taesdxl,
    "kolors": unets.kolors,
    "stable-diffusion-3": spatial.stable_diffusion_3,
    "taesd3": spatial.taesd3,
    "z-image": spatial.z_image,
    "lumina-2": spatial.lumina2,
    "aura-flow": spatial.aura_flow,
    "cogview4": spatial.cogview4,
    "hunyuan-image": spatial.hunyuan_image,
    "sana": binned.sana,
    "sana-binned": binned.sana_binned,
    "pixart-alpha": binned.pixart_alpha,
    "pixart-alpha-binned": binned.pixart_alpha_binned,
    "pixart-sigma": binned.pixart_sigma,
    "pixart-sigma-binned": binned.pixart_sigma_binned,
    "flux": packed.flux,
    "flux-rounded": packed.flux_rounded,
    "taef1": packed.taef1,
    "chroma": packed.chroma,
    "flux2": packed.flux2,
    "flux2-rounded": packed.flux2_rounded,
    "flux2-klein": packed.flux2_klein,
    "flux2-klein-denormalised": packed.flux2_klein_denormalised,
    "qwen-image": packed.qwen_image,
    "qwen-image-rounded": packed.qwen_image_rounded,
    "qwen-image-2.1": packed.qwen_image_21,
}


@cache
def case(name: str) -> Case:
    """The case of that name, built once."""
    return BUILDERS[name]()
