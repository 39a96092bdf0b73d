"""The latents that are decoded, the same in every run."""

from pathlib import Path
from typing import Final

import numpy as np

from vaefarm_producer.local.processes import worker_folder
from vaefarm_shared import latents
from vaefarm_shared.checks import MAX_LATENT_BYTES

#: Seed of every latent that is drawn.
SEED: Final = 20250101

#: Latents before the first that counts: connections, scripts, caches.
WARM_UP_JOBS: Final = 10


def noise(count: int, shape: tuple[int, ...]) -> list[latents.Latents]:
    """Latents from a seeded normal distribution, in float16."""
    draw = np.random.default_rng(SEED)
    return [latents.from_tensor(draw.standard_normal(shape, np.float32).astype(np.float16)) for _ in range(count)]


def demo(count: int) -> list[latents.Latents]:
    """The demo's latents of photographs, over and over; noise of (1, 4, 32, 32), 256 pixels, where there are none."""
    paths = sorted((worker_folder("demo") / "latents").glob("*.safetensors"))
    if not paths:
        return noise(count, (1, 4, 32, 32))
    read = [latents.read_file(Path(path), MAX_LATENT_BYTES)[0] for path in paths]
    return [read[place % len(read)] for place in range(count)]


def describe(tensors: list[latents.Latents]) -> str:
    """Their number, shapes and dtypes."""
    kinds = sorted({f"{'x'.join(map(str, one.shape))} {one.dtype}" for one in tensors})
    return f"{len(tensors)} latents of {', '.join(kinds)}"
