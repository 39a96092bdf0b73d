"""Packed latents: tokens of 2 x 2 latents, as Flux.1's transformer makes them."""

import torch


def unpack_2x2(tokens: torch.Tensor, height: int, width: int, spatial_scale: int) -> torch.Tensor:
    """(n, rows * columns, 4c) tokens -> (n, c, height / scale, width / scale) latents.

    `height` and `width` are the pictures' pixels. The arithmetic of FluxPipeline._unpack_latents, written out
    because importing that pipeline imports transformers; a test holds the two together.
    """
    rows, columns = height // (2 * spatial_scale), width // (2 * spatial_scale)
    count, _, features = tokens.shape
    blocks = tokens.view(count, rows, columns, features // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(count, features // 4, 2 * rows, 2 * columns)
