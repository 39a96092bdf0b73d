"""Switches of diffusers' VAEs that save memory: slicing decodes picture by picture, tiling in overlapping tiles."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from vaefarm_shared.errors import OutOfMemory

#: Pixels of a tile's side: a VAE made for pictures of 1024 pixels would take those whole, tiling or not.
MAX_TILE_PIXELS: Final[int] = 512


def bound_tiles(vae: Any, spatial_scale: int) -> None:
    """Make a VAE's tiles no larger than MAX_TILE_PIXELS, and their steps whole; changes no decode that is not tiled."""
    if getattr(vae, "tile_sample_min_size", 0) > MAX_TILE_PIXELS:
        # diffusers keeps both, and never computes one from the other again.
        vae.tile_sample_min_size = MAX_TILE_PIXELS
        vae.tile_latent_min_size = MAX_TILE_PIXELS // spatial_scale
    for side, factor in (("height", "tile_overlap_factor_height"), ("width", "tile_overlap_factor_width")):
        if hasattr(vae, factor):
            # CogVideoX rounds a tile's step in latents and in pixels each for itself: where they differ, pixels are
            # dropped or come twice. The overlaps are a sixth and a fifth.
            step = round(1 / getattr(vae, factor))
            latents = max(1, getattr(vae, f"tile_latent_min_{side}") // step) * step
            setattr(vae, f"tile_latent_min_{side}", latents)
            setattr(vae, f"tile_sample_min_{side}", latents * spatial_scale)


@contextmanager
def switched_on(vae: Any, switches: Sequence[str]) -> Iterator[None]:
    """A VAE with those switches on, by their names: 'slicing', 'tiling'.

    Raises:
        OutOfMemory: its class has no such switch.
    """
    with ExitStack() as stack:
        for name in switches:
            try:
                getattr(vae, f"enable_{name}")()
            except (AttributeError, NotImplementedError) as error:
                raise OutOfMemory(f"no room, and a {type(vae).__name__} has no {name}") from error
            stack.callback(getattr(vae, f"disable_{name}"))
        yield
