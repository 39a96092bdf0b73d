"""Decodes that give what `vae.decode` gives in a part of its memory: strips of rows, and no tile's seams.

Two settings: with maps of the picture's own size stored, about half of a plain decode's peak; with the last up-sampling
and the first convolutions behind it computed again for each strip instead, less than a third.
"""

from typing import Any

import torch
from diffusers import AutoencoderTiny

from .autoencoder_kl import KlDecode
from .autoencoder_tiny import tiny_picture
from .structure import unknown_part

__all__ = ["decode", "unknown_part"]


@torch.inference_mode()
def decode(vae: Any, latents: torch.Tensor, *, recompute: bool, strip: int | None = None) -> torch.Tensor:
    """What `vae.decode(latents)` gives but for the order in which sums are added, picture by picture.

    Args:
        vae: One of which `unknown_part` is None.
        latents: (n, c, h, w), as `vae.decode` takes them, in the VAE's dtype.
        recompute: Compute maps of the picture's own size again rather than store them, all but one.
        strip: Rows of a strip; of latents where the VAE is an AutoencoderTiny. By the picture's size unless given.

    Returns:
        (n, 3 or 4, height, width) in about [-1, 1].
    """
    if isinstance(vae, AutoencoderTiny):
        pictures = [tiny_picture(vae, latent, strip) for latent in torch.split(latents, 1)]
    else:
        kl = KlDecode(vae, latents.shape[2] * latents.shape[3], recompute, strip)
        pictures = [kl.picture(latent) for latent in torch.split(latents, 1)]
    return pictures[0] if len(pictures) == 1 else torch.cat(pictures)
