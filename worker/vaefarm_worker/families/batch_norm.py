"""AutoencoderKLFlux2: latents in 2 x 2 blocks were normalised by the running statistics of a BatchNorm in the VAE."""

from collections.abc import Mapping
from typing import Any

import torch

from vaefarm_shared.errors import ConfigurationError

from .packing import patchify, unpatchify


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for constants that this scheme does not know."""
    if tuple(config.get("patch_size", (2, 2))) != (2, 2):
        raise ConfigurationError(f"its config's patch_size is {config['patch_size']}; expected [2, 2]")


def denormalise(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """(n, c, h, w) latents as the pipeline returns them -> the decoder's input, same shape and dtype.

    `latents * sqrt(running_var + batch_norm_eps) + running_mean` for each of the 4c channels of 2 x 2 blocks, as
    Flux2Pipeline does it; there is no scaling factor.
    """
    mean, std = _statistics(latents, vae)
    return unpatchify(patchify(latents) * std + mean)


def normalise(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """(n, c, h, w) of the encoder -> latents as a pipeline holds them, same shape and dtype.

    `(latents - running_mean) / sqrt(running_var + batch_norm_eps)` for each channel of 2 x 2 blocks, as
    Flux2Pipeline does it with the pictures that it is given.
    """
    mean, std = _statistics(latents, vae)
    return unpatchify((patchify(latents) - mean) / std)


def _statistics(latents: torch.Tensor, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mean = vae.bn.running_mean.view(1, -1, 1, 1).to(latents.device, latents.dtype)
    std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).to(latents.device, latents.dtype)
    return mean, std
