"""Layouts: latents as pipelines hand them out, and as a VAE takes them, (n, c, h, w), of videos (n, c, t, h, w).

The arithmetic of FluxPipeline._unpack_latents, QwenImage21Pipeline._unpack_latents, LTXPipeline._unpack_latents and
Flux2Pipeline._unpatchify_latents, written out because importing a pipeline imports transformers, seconds of a worker's
start; a test holds each to its original.
"""

import torch

from vaefarm_shared.frames import FRAMES_FIRST, latent_frames
from vaefarm_shared.job import JobSpec, Layout


def to_spatial(latents: torch.Tensor, layout: Layout, height: int, width: int, spatial_scale: int) -> torch.Tensor:
    """Latents in any layout -> (n, c, height / scale, width / scale). `height` and `width` are the pictures' pixels."""
    rows, columns = height // spatial_scale, width // spatial_scale
    if layout == "packed":
        # Contiguous, as the pipelines' own: a convolution adds in another order where channels come last in memory.
        return unpatchify(tokens_to_grid(latents, rows // 2, columns // 2).contiguous())
    if layout == "tokens":
        return tokens_to_grid(latents, rows, columns)
    if layout == "patchified":
        return unpatchify(latents)
    return latents.squeeze(2) if layout == "frames" else latents


def to_video(latents: torch.Tensor, spec: JobSpec, spatial_scale: int, temporal_scale: int) -> torch.Tensor:
    """Latents in any layout of videos -> (n, c, t, h, w), with the strides of the pipelines' own: where they are not
    contiguous, a convolution may add in another order."""
    if spec.layout == "video_tokens":
        rows, columns = spec.height // spatial_scale, spec.width // spatial_scale
        count, tokens, channels = latents.shape
        frames = tokens // (rows * columns)
        return latents.reshape(count, frames, rows, columns, channels).permute(0, 4, 1, 2, 3)
    if spec.layout not in FRAMES_FIRST:
        return latents
    if spec.layout == "padded" and spec.num_frames is not None:
        # CogVideoXPipeline drops what it put in front.
        latents = latents[:, latents.shape[1] - latent_frames(spec.num_frames, temporal_scale) :]
    return latents.permute(0, 2, 1, 3, 4)


def tokens_to_grid(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(n, rows * columns, c) tokens, row by row -> (n, c, rows, columns)."""
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], rows, columns)


def unpatchify(patches: torch.Tensor) -> torch.Tensor:
    """(n, 4c, h, w) -> (n, c, 2h, 2w): channel 4i + 2j + k is channel i of row j and column k of a 2 x 2 block."""
    return torch.nn.functional.pixel_shuffle(patches, 2)


def patchify(latents: torch.Tensor) -> torch.Tensor:
    """(n, c, 2h, 2w) -> (n, 4c, h, w): the reverse of `unpatchify`."""
    return torch.nn.functional.pixel_unshuffle(latents, 2)
