"""Mean and standard deviation of each channel of the latents, as a config gives them."""

from typing import Any

import torch


def statistics_of(latents: torch.Tensor, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """latents_mean and latents_std, each (1, c, 1, 1), on the latents' device and in their dtype."""
    mean, std = (
        torch.tensor(vae.config[name], dtype=torch.float32).view(1, -1, 1, 1).to(latents.device, latents.dtype)
        for name in ("latents_mean", "latents_std")
    )
    return mean, std
