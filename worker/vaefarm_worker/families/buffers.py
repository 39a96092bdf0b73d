"""LTX-Video's VAEs: each channel has a mean and a standard deviation among the weights, as buffers."""

from typing import Any

import torch

from vaefarm_shared.errors import ConfigurationError

from .family import Config


def check_config(config: Config) -> None:
    """Raises ConfigurationError for constants that this scheme does not know."""
    if config.get("scaling_factor") is None:
        raise ConfigurationError("its config has no scaling_factor; expected the number that its pipeline divides by")


def check_denormalised(config: Config) -> None:
    """The same of LTX-2. Raises ConfigurationError also for a decoder that takes a timestep."""
    check_config(config)
    if config.get("timestep_conditioning"):
        # LTX2Pipeline mixes noise in first and denormalises then; what it returns is denormalised already.
        raise ConfigurationError(
            "its decoder takes a timestep, with noise among latents that LTX2Pipeline does not return"
        )


def denormalise(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """(n, c, t, h, w) latents as the pipeline has them -> the decoder's input, same shape and dtype.

    `latents * std / scaling_factor + mean`, as LTXPipeline._denormalize_latents and LTX2Pipeline's.
    """
    mean, std = _statistics_of(latents, vae)
    whole: torch.Tensor = latents * std / vae.config.scaling_factor + mean
    return whole


def normalise(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """The reverse, in the order of LTXPipeline._normalize_latents: `(latents - mean) * scaling_factor / std`."""
    mean, std = _statistics_of(latents, vae)
    whole: torch.Tensor = (latents - mean) * vae.config.scaling_factor / std
    return whole


def _statistics_of(latents: torch.Tensor, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (
        one.view(1, -1, 1, 1, 1).to(latents.device, latents.dtype) for one in (vae.latents_mean, vae.latents_std)
    )
    return mean, std
