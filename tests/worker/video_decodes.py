"""Decodes of videos by a VAE's family, without a farm."""

from typing import Any

import torch

from vaefarm_shared.job import JobSpec
from vaefarm_worker.families.family import Network, whole
from vaefarm_worker.families.known import family_of
from vaefarm_worker.families.switches import switched_on


def decoded(vae: Any, grid: torch.Tensor, *switches: str, network: Network = whole, **options: Any) -> torch.Tensor:
    """(n, c, t, h, w) of a decoder's input -> its videos, with those switches of diffusers on."""
    family = family_of(type(vae).__name__)
    scale = family.scale(vae.config)
    count, _, _, rows, columns = grid.shape
    sizes = {"count": count, "height": rows * scale, "width": columns * scale, "num_frames": 1, "video_format": "zip"}
    named = {"id": "x", "vae": "x", "dtype": "float32", "shape": tuple(grid.shape), "layout": "video"}
    spec = JobSpec.model_validate({**named, **sizes, "request_hash": "", "normalised": False})
    with torch.inference_mode(), switched_on(vae, switches):
        return family.decode(vae, grid, spec, network, **options)
