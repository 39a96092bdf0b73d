"""Qwen-Image's VAEs, and Wan's: each channel has a mean and a standard deviation in the config."""

from collections.abc import Mapping
from typing import Any

import torch

from vaefarm_shared.errors import ConfigurationError

from .statistics import statistics_of


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for constants that this scheme does not know."""
    for name in ("latents_mean", "latents_std"):
        found = config.get(name)
        if found is None or len(found) != config["z_dim"]:
            raise ConfigurationError(f"its config's {name} is {found!r}; expected {config['z_dim']} numbers (z_dim)")


def denormalise(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """(n, c, ...) latents as the pipeline returns them -> the decoder's input, same shape and dtype.

    `latents / (1 / std) + mean`, as QwenImagePipeline and WanPipeline: `latents * std` would differ in the last bit.
    """
    mean, std = statistics_of(latents, vae)
    return latents / (1.0 / std) + mean


def denormalise_by_product(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """As `denormalise`, by `latents * std + mean`, as QwenImage21Pipeline does it."""
    mean, std = statistics_of(latents, vae)
    return latents * std + mean


def normalise(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """(n, c, h, w) of the encoder -> latents as an img2img pipeline holds them, same shape and dtype.

    `(latents - mean) * (1 / std)`, as QwenImageImg2ImgPipeline does it.
    """
    mean, std = statistics_of(latents, vae)
    return (latents - mean) * (1.0 / std)


def normalise_by_quotient(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """As `normalise`, by `(latents - mean) / std`, as QwenImage21Pipeline does it."""
    mean, std = statistics_of(latents, vae)
    return (latents - mean) / std
