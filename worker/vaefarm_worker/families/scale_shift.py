"""AutoencoderKL and AutoencoderTiny: latents were scaled, and for some shifted, by constants of the config."""

from collections.abc import Mapping
from typing import Any, Final

import torch

from vaefarm_shared.errors import ConfigurationError

from ..memory import PixelCost

#: Classes of diffusers whose pipelines normalise this way.
CLASSES: Final[tuple[str, ...]] = ("AutoencoderKL", "AutoencoderTiny")

#: Elements per output pixel and channel of the widest activation. Planned: what whole processes were seen to take, with
#: the allocator's slack and cuDNN's workspace (2200 for 256 channels). At least: the activations alive at a time.
KL_ELEMENTS: Final[tuple[float, float]] = (2200 / 256, 1000 / 256)
TINY_ELEMENTS: Final[tuple[float, float]] = (400 / 64, 256 / 64)


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for constants that this scheme does not know."""
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise ConfigurationError("its config has latents_mean and latents_std; this release knows scaling_factor alone")


def latent_channels(config: Mapping[str, Any]) -> int:
    """Channels of the latents that the config's VAE decodes."""
    return int(config["latent_channels"])


def spatial_scale(config: Mapping[str, Any]) -> int:
    """Pixels per latent: each block but the last doubles the size."""
    blocks = config.get("decoder_block_out_channels") or config["block_out_channels"]
    return int(2 ** (len(blocks) - 1))


def pixel_cost(config: Mapping[str, Any], itemsize: int) -> PixelCost:
    """What an output pixel takes of memory in a decode whose elements have `itemsize` bytes."""
    tiny = config.get("decoder_block_out_channels")
    planned, least = TINY_ELEMENTS if tiny else KL_ELEMENTS
    # The last block of an AutoencoderKL gets the channels of the one before it.
    widest = int(tiny[-1] if tiny else config["block_out_channels"][:2][-1])
    return PixelCost(planned * widest * itemsize, least * widest * itemsize, widest)


def denormalise(latents: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """(n, c, h, w) latents as the pipeline returns them -> the decoder's input, same shape and dtype.

    `latents / scaling_factor`, then `+ shift_factor` where there is one, in the latents' own dtype: in this order,
    as StableDiffusionPipeline, StableDiffusionXLPipeline and FluxPipeline do it.
    """
    scaled: torch.Tensor = latents / config["scaling_factor"]
    shift = config.get("shift_factor")
    return scaled if shift is None else scaled + shift
