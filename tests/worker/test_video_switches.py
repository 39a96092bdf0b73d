"""Tiles and slices of videos: no pixel is dropped, and each video is what it is alone."""

from collections.abc import Callable
from typing import Final

import pytest
import torch
from tests.parity import cogvideox, hunyuan, ltx, mochi, svd, videos
from tests.parity.case import embeddings
from tests.parity.videos import VideoCase
from tests.worker.video_decodes import decoded

from vaefarm_shared.errors import OutOfMemory
from vaefarm_worker.families.known import family_of
from vaefarm_worker.families.switches import bound_tiles

#: Each family's VAE, and rows and columns of latents that make two rows and two columns of tiles.
TILED: Final[dict[str, tuple[Callable[[], VideoCase], int, int]]] = {
    "wan": (videos.wan, 36, 34),
    "wan-2.2": (videos.wan_2_2, 18, 17),
    "hunyuan-video": (hunyuan.hunyuan_video, 36, 34),
    "hunyuan-video-1.5": (hunyuan.hunyuan_video_1_5, 18, 17),
    "cogvideox": (cogvideox.cogvideox, 32, 47),
    "mochi": (mochi.mochi, 36, 34),
    "ltx": (ltx.ltx, 18, 17),
    "ltx-timestep": (ltx.ltx_with_timestep, 18, 17),
    "ltx-2": (ltx.ltx_2, 18, 17),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TILED)
def test_tiles_drop_no_pixel(name: str) -> None:
    build, rows, columns = TILED[name]
    vae = build().vae
    family = family_of(type(vae).__name__)
    bound_tiles(vae, family.scale(vae.config))
    grid = embeddings(1, family.channels(vae.config), 1, rows, columns)

    tiled, plain = decoded(vae, grid, "tiling"), decoded(vae, grid)

    assert tiled.shape == plain.shape
    assert not torch.equal(tiled, plain), "it was tiled"
    # The last tile's share: pixels that come too early or twice would be those of another place.
    corner = (..., slice(-48, None), slice(-48, None))
    both = torch.stack([tiled[corner].flatten(), plain[corner].flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.7


def test_tiles_whose_steps_would_be_rounded_are_made_whole() -> None:
    vae = cogvideox.cogvideox().vae
    vae.tile_sample_min_height, vae.tile_latent_min_height = 300, 37

    bound_tiles(vae, 8)

    assert (vae.tile_sample_min_height, vae.tile_latent_min_height) == (288, 36)
    assert (vae.tile_sample_min_width, vae.tile_latent_min_width) == (360, 45), "whole as it is"


def test_a_class_without_tiles_has_no_room_for_them() -> None:
    with pytest.raises(OutOfMemory, match="a AutoencoderKLTemporalDecoder has no tiling"):
        decoded(svd.svd().vae, embeddings(1, 4, 1, 8, 8), "tiling")


@pytest.mark.parametrize("build", [ltx.ltx, ltx.ltx_with_timestep], ids=["ltx", "ltx-timestep"])
def test_slices_of_videos_with_a_timestep_are_each_video_alone(build: Callable[[], VideoCase]) -> None:
    vae = build().vae
    grid = embeddings(2, 128, 2, 2, 2)

    sliced = decoded(vae, grid, "slicing")

    assert torch.equal(sliced, torch.cat([decoded(vae, grid[:1]), decoded(vae, grid[1:])]))
