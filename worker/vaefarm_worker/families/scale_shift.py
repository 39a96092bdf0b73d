"""AutoencoderKL and its like: latents were scaled, and for some shifted, by constants of the config."""

from collections.abc import Mapping
from typing import Any

import torch

from vaefarm_shared.errors import ConfigurationError

from .statistics import statistics_of


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for constants that this scheme does not know."""
    if config.get("scaling_factor") is None:
        raise ConfigurationError("its config has no scaling_factor; expected the number that its pipeline divides by")
    given = [name for name in ("latents_mean", "latents_std") if config.get(name) is not None]
    if len(given) == 1:
        raise ConfigurationError(f"its config has {given[0]} alone; expected latents_mean and latents_std, or neither")
    if given and config.get("shift_factor"):
        raise ConfigurationError("its config has latents_mean and a shift_factor; no pipeline is known to use both")


def denormalise(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """(n, c, h, w) latents as the pipeline returns them -> the decoder's input, same shape and dtype.

    `latents / scaling_factor`, then `+ shift_factor` where there is one, in the latents' own dtype: in this order,
    as StableDiffusionPipeline, StableDiffusion3Pipeline and FluxPipeline do it. With latents_mean and latents_std
    (Playground 2.5) `latents * std / scaling_factor + mean`, as StableDiffusionXLPipeline.
    """
    config = vae.config
    if config.get("latents_mean") is not None:
        mean, std = statistics_of(latents, vae)
        whole: torch.Tensor = latents * std / config["scaling_factor"] + mean
        return whole
    return divide(latents, config["scaling_factor"], config.get("shift_factor"))


def denormalise_by_product(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """As `denormalise`, by `1 / scaling_factor * latents`, as CogVideoXPipeline and StableVideoDiffusionPipeline."""
    scaled: torch.Tensor = 1 / vae.config.scaling_factor * latents
    return scaled


def normalise(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """(n, c, h, w) of the encoder -> latents as an img2img pipeline holds them, same shape and dtype.

    The reverse of `denormalise`: `(latents - shift_factor) * scaling_factor`, or `(latents - mean) * scaling_factor /
    std`, in the order of StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline and FluxImg2ImgPipeline.
    """
    config = vae.config
    if config.get("latents_mean") is not None:
        mean, std = statistics_of(latents, vae)
        whole: torch.Tensor = (latents - mean) * config["scaling_factor"] / std
        return whole
    return multiply(latents, config["scaling_factor"], config.get("shift_factor"))


def divide(latents: torch.Tensor, scaling_factor: float, shift_factor: float | None) -> torch.Tensor:
    """`latents / scaling_factor`, then `+ shift_factor` where there is one, in the latents' own dtype."""
    scaled = latents / scaling_factor
    return scaled if shift_factor is None else scaled + shift_factor


def multiply(latents: torch.Tensor, scaling_factor: float, shift_factor: float | None) -> torch.Tensor:
    """`latents - shift_factor` where there is one, then `* scaling_factor`, in the latents' own dtype."""
    return (latents if shift_factor is None else latents - shift_factor) * scaling_factor
