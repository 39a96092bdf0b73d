"""Decodes of VAEs that are told more than latents: a timestep, noise, or how many frames there are."""

from typing import Any

import torch

from vaefarm_shared.errors import OutOfMemory
from vaefarm_shared.job import JobSpec

from ..by_frames import FrameTiles


def with_timestep(vae: Any, grid: torch.Tensor, spec: JobSpec, tiles: FrameTiles | None = None) -> torch.Tensor:
    """(n, c, t, h, w) -> (n, 3, frames, height, width) of LTX-Video, in the order of LTXPipeline.

    A conditioned decoder takes the job's timestep, and latents of which the job's noise took a share. Version 0.9.1's
    draws noise of its own from torch's one generator, which is seeded for the while: with the job's seed, else with 0.
    """
    # As the pipeline's, which come of tokens: a convolution may add in another order where channels lie otherwise.
    grid = grid.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    timesteps = None
    if vae.config.timestep_conditioning:
        timesteps = torch.tensor([spec.decode_timestep or 0.0] * len(grid), device=grid.device, dtype=grid.dtype)
        if spec.noise_scale > 0:
            grid = _with_noise(grid, spec)
    # diffusers slices latents with their timesteps wrongly: `split` gives two lists, over which it goes as one.
    size = 1 if vae.use_slicing else len(grid)
    parts = torch.split(grid, size)
    times = [None] * len(parts) if timesteps is None else torch.split(timesteps, size)
    devices = [grid.device] if grid.device.type == "cuda" else []
    made = []
    for part, time in zip(parts, times, strict=True):

        def decode(frames: torch.Tensor, time: torch.Tensor | None = time) -> torch.Tensor:
            # One noise goes over all frames, and so over those of every stretch.
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(spec.seed or 0)
                return vae.decode(frames, time, return_dict=False)[0]  # type: ignore[no-any-return]

        made.append(tiles.decode(decode, part, vae.temporal_compression_ratio) if tiles else decode(part))
    return made[0] if len(made) == 1 else torch.cat(made)


def _with_noise(grid: torch.Tensor, spec: JobSpec) -> torch.Tensor:
    """A generator of the CPU draws it, as LTXPipeline's where one is passed."""
    generator = torch.Generator("cpu").manual_seed(spec.seed or 0)
    noise = torch.randn(grid.shape, generator=generator, dtype=grid.dtype).to(grid.device)
    scales = torch.tensor([spec.noise_scale] * len(grid), device=grid.device, dtype=grid.dtype)[:, *(None,) * 4]
    return (1 - scales) * grid + scales * noise


def in_chunks(vae: Any, grid: torch.Tensor, spec: JobSpec, tiles: FrameTiles | None = None) -> torch.Tensor:
    """(n, c, t, h, w) -> (n, 3, t, height, width) of Stable Video Diffusion.

    The frames of all videos behind one another, in chunks of the job's `decode_chunk_size` or else of a video's frames:
    StableVideoDiffusionPipeline.decode_latents. Frames of a chunk see each other, so its size is seen in the frames.

    Raises:
        OutOfMemory: chunks are as small as `tiles` already.
    """
    count, _, frames, _, _ = grid.shape
    held = grid.permute(0, 2, 1, 3, 4).flatten(0, 1)
    size = min(spec.decode_chunk_size or frames, frames)
    if tiles is not None:
        if size <= tiles.latents:
            raise OutOfMemory(f"no room, and {size} frames are decoded at a time already")
        size = tiles.latents
    parts = [vae.decode(part, num_frames=len(part), return_dict=False)[0] for part in torch.split(held, size)]
    made = torch.cat(parts)
    return made.reshape(count, frames, *made.shape[1:]).permute(0, 2, 1, 3, 4)
