"""Mean and standard deviation of each channel of the latents, as a config gives them."""

from typing import Any

import torch


def statistics_of(latents: torch.Tensor, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """latents_mean and latents_std, each (1, c, 1, ...) of the latents' rank, on their device and in their dtype."""
    shape = (1, -1, *(1,) * (latents.ndim - 2))
    mean, std = (
        torch.tensor(vae.config[name], dtype=torch.float32).view(shape).to(latents.device, latents.dtype)
        for name in ("latents_mean", "latents_std")
    )
    return mean, std
