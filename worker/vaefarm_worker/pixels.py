"""From what a VAE decodes to pixels, by diffusers' own steps."""

import numpy as np
import torch

from .decoder import Pixels


def fit(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(n, c, h, w) -> (n, c, height, width): resized until both sides cover, then cropped about the middle.

    The steps of PixArtImageProcessor.resize_and_crop_tensor of diffusers, by which pipelines with resolution binning
    (Sana, PixArt) come from the size that they generate to the one that was asked for. Where its float arithmetic ends
    a pixel short of a side, which it then cuts to one row or column, that side is covered here.
    """
    ratio = max(height / images.shape[2], width / images.shape[3])
    sizes = max(height, int(images.shape[2] * ratio)), max(width, int(images.shape[3] * ratio))
    resized = torch.nn.functional.interpolate(images, size=sizes, mode="bilinear", align_corners=False)
    top, left = (sizes[0] - height) // 2, (sizes[1] - width) // 2
    return resized[:, :, top : top + height, left : left + width]


def finished(images: torch.Tensor, height: int, width: int) -> Pixels:
    """(n, c, h, w) in [-1, 1] -> (n, height, width, c) uint8; what must be resized, picture by picture."""
    if images.shape[2:] == (height, width):
        return to_pixels(images)
    return np.concatenate([to_pixels(fit(one, height, width)) for one in torch.split(images, 1)])


def to_pixels(images: torch.Tensor) -> Pixels:
    """(n, c, height, width) in [-1, 1] -> (n, height, width, c) uint8, converted on the device.

    The steps and their order are VaeImageProcessor.denormalize, .pt_to_numpy and .numpy_to_pil of diffusers, so
    that each value is the pipeline's: `x * 127.5 + 127.5` differs in a few values per million.
    """
    unit = (images * 0.5 + 0.5).clamp(0, 1)
    pixels: Pixels = unit.float().mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
