"""VAEs with random weights: as fast as trained ones, and no download."""

from typing import Any, Final

import diffusers
import torch

_FULL_SIZE: Final[dict[str, Any]] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
_WITHOUT_QUANT: Final[dict[str, Any]] = {"use_quant_conv": False, "use_post_quant_conv": False}

_SD_V1: Final = ("AutoencoderKL", _FULL_SIZE | {"latent_channels": 4, "sample_size": 512})
_SDXL: Final = ("AutoencoderKL", _FULL_SIZE | {"latent_channels": 4, "sample_size": 1024})
_FLUX: Final = ("AutoencoderKL", _FULL_SIZE | _WITHOUT_QUANT | {"latent_channels": 16, "sample_size": 1024})

#: The classes of diffusers and their arguments, by the catalogue's ids; what is left out is the class' default.
ARCHITECTURES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "sd-v1": _SD_V1,
    "sdxl": _SDXL,
    "sdxl-original": _SDXL,
    "sd3": _FLUX,
    "flux": _FLUX,
    "z-image": _FLUX,
    "flux2": ("AutoencoderKLFlux2", _FULL_SIZE | {"latent_channels": 32, "sample_size": 1024}),
    "taesd": ("AutoencoderTiny", {"latent_channels": 4}),
    "taesdxl": ("AutoencoderTiny", {"latent_channels": 4}),
}


def random_vae(vae: str) -> Any:
    """A VAE of that architecture in host memory, in float32, with seeded random weights."""
    class_name, config = ARCHITECTURES[vae]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        made = getattr(diffusers, class_name)(**config)
    return made.eval()
