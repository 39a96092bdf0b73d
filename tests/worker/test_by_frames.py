"""Fewer frames of a video at a time: the same frames where a VAE looks back alone, else as many and close to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo15, AutoencoderKLMochi
from tests.parity import cogvideox, hunyuan, ltx, mochi, svd, videos
from tests.parity.case import embeddings
from tests.parity.videos import VideoCase
from tests.worker.items import item
from tests.worker.video_decodes import decoded

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import OutOfMemory
from vaefarm_worker import by_frames, ladder
from vaefarm_worker.bench.live_bytes import FusedAttention, peak_bytes
from vaefarm_worker.by_frames import FrameTiles
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.families.known import FAMILIES, family_of
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.memory import SHARE
from vaefarm_worker.memory_mode import MemoryMode

#: VAEs that look back in time alone.
CAUSAL: Final = {"mochi": mochi.mochi, "hunyuan-video-1.5": hunyuan.hunyuan_video_1_5}

#: VAEs whose frames are decoded in stretches where that is allowed, and latent frames of three stretches.
TILED: Final[dict[str, tuple[Callable[[], VideoCase], int]]] = {
    "hunyuan-video": (hunyuan.hunyuan_video, 5),
    "ltx": (ltx.ltx, 8),
    "ltx-timestep": (ltx.ltx_with_timestep, 8),
    "ltx-2": (ltx.ltx_2, 8),
    "svd": (svd.svd, 10),
}


def latents_of(vae: Any, frames: int, count: int = 1) -> torch.Tensor:
    """Noise that changes with time."""
    channels = family_of(type(vae).__name__).channels(vae.config)
    return embeddings(count, channels, frames, 6, 4)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize(("count", "frames"), [(1, 1), (1, 4), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_frame_by_frame_gives_the_frames_of_a_whole_decode(name: str, count: int, frames: int) -> None:
    vae = CAUSAL[name]().vae
    grid = latents_of(vae, frames, count)

    plain, made = decoded(vae, grid), decoded(vae, grid, network=by_frames.decode)

    assert made.shape == plain.shape
    assert torch.allclose(made, plain, rtol=0, atol=2e-5), (made - plain).abs().max()
    assert torch.equal(decoded(vae, grid), plain), "nothing is left on its convolutions"


def test_mochis_own_decode_of_few_frames_is_another_picture() -> None:
    """Which is why it is not taken."""
    vae = mochi.mochi().vae
    grid = latents_of(vae, 4)
    plain = decoded(vae, grid)

    vae.use_framewise_decoding = True

    assert (decoded(vae, grid) - plain).abs().max() > 0.01


@pytest.mark.parametrize("build", [videos.wan, cogvideox.cogvideox, ltx.ltx, svd.svd, hunyuan.hunyuan_video])
def test_classes_that_decode_few_frames_already_or_look_ahead_have_no_decode_frame_by_frame(
    build: Callable[[], VideoCase],
) -> None:
    vae = build().vae

    assert by_frames.unknown_part(vae) == type(vae).__name__
    assert MemoryMode.FRAME_BY_FRAME not in family_of(type(vae).__name__).sparing_elements


def test_a_decoder_with_a_part_that_looks_ahead_is_not_known() -> None:
    vae = mochi.mochi().vae
    assert by_frames.unknown_part(vae) is None

    vae.decoder.up_blocks[0].resnets[0].nonlinearity = torch.nn.GELU()

    assert by_frames.unknown_part(vae) == "up_blocks.0.resnets.0.nonlinearity"


@pytest.mark.parametrize(
    ("build", "channels", "scale", "frames"),
    [(AutoencoderKLMochi, 12, 8, 127), (AutoencoderKLHunyuanVideo15, 32, 16, 129)],
    ids=["mochi", "hunyuan-video-1.5"],
)
@pytest.mark.slow
def test_frame_by_frame_takes_what_is_reckoned_of_memory(build: Any, channels: int, scale: int, frames: int) -> None:
    with torch.device("meta"):
        vae = build().half().eval()
    family, side = FAMILIES[build.__name__], 256
    held = (frames - 1) // family.temporal_scale(vae.config) + 1  # type: ignore[misc]
    grid = torch.empty(1, channels, held, side // scale, side // scale, device="meta", dtype=torch.half)

    with FusedAttention():
        peak = peak_bytes(lambda: by_frames.decode(vae, grid))

    reckoned = family.pixel_cost(vae.config, 2).sparing_bytes[MemoryMode.FRAME_BY_FRAME] * side**2
    assert 0.98 * peak <= reckoned <= 1.02 * peak


@pytest.mark.parametrize("name", TILED)
def test_stretches_of_frames_have_all_frames_in_their_places_and_are_close(name: str) -> None:
    build, held = TILED[name]
    vae = build().vae
    tiles = family_of(type(vae).__name__).frame_tiles
    assert tiles is not None
    one, other = latents_of(vae, 2).split(1, 2)
    # A scene that becomes another.
    grid = torch.cat([one.lerp(other, time) for time in torch.linspace(0, 1, held).tolist()], 2)

    plain, tiled = decoded(vae, grid), decoded(vae, grid, in_frame_tiles=True)
    start = range(0, held - tiles.overlap, tiles.latents - tiles.overlap)[-1]
    last = decoded(vae, grid[:, :, start:])

    assert tiled.shape == plain.shape
    assert torch.allclose(tiled[:, :, -1], last[:, :, -1], atol=1e-5), "it was tiled"
    pairs = zip(tiled.unbind(2), plain.unbind(2), strict=True)
    likeness = [
        torch.corrcoef(torch.stack([mine.flatten(), all_at_once.flatten()]))[0, 1] for mine, all_at_once in pairs
    ]
    assert min(likeness) > 0.4, likeness


@pytest.mark.parametrize("latents", [4, 5, 6, 7, 11])
def test_stretches_of_any_length_make_each_frame_once(latents: int) -> None:
    """A decoder that makes of each frame its own number: a stretch that is laid elsewhere shows."""
    grid = torch.arange(float(latents)).reshape(1, 1, latents, 1, 1)

    def numbers(part: torch.Tensor) -> torch.Tensor:
        first, last = part[0, 0, 0, 0, 0].item(), part[0, 0, -1, 0, 0].item()
        return torch.arange(8 * first, 8 * last + 1).reshape(1, 1, -1, 1, 1)

    if latents <= 4:
        with pytest.raises(OutOfMemory, match="4 latent frames are decoded at a time already"):
            FrameTiles(4, 2).decode(numbers, grid, 8)
        return
    made = FrameTiles(4, 2).decode(numbers, grid, 8)

    assert torch.allclose(made.flatten(), torch.arange(8.0 * (latents - 1) + 1))


def test_frames_of_svd_are_not_decoded_in_stretches_as_long_as_its_chunks() -> None:
    vae = svd.svd().vae

    with pytest.raises(OutOfMemory, match="3 frames are decoded at a time already"):
        decoded(vae, latents_of(vae, 3), in_frame_tiles=True)


@pytest.fixture
def scarce(tmp_path: Path) -> Callable[[VideoCase, int], LocalDecoder]:
    """A decoder of a small VAE whose class finds no room for more latent frames at a time than so many."""

    def made(case: VideoCase, most: int) -> LocalDecoder:
        case.vae.save_pretrained(tmp_path / "vae")
        entry = Catalogue.load(None)[case.vae_id].model_copy(
            update={"path": str(tmp_path), "source": None, "cpu_dtype": "float32"}
        )
        decoder = LocalDecoder([entry], "cpu")
        loaded = decoder._shelf._places[case.vae_id].loaded
        assert loaded is not None
        decode = loaded.module.decode

        def scarcely(latents: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            if latents.shape[2] > most:
                raise torch.OutOfMemoryError("no")
            return decode(latents, *arguments, **options)

        loaded.module.decode = scarcely
        return decoder

    return made


def outcome(decoder: LocalDecoder, latents: torch.Tensor, **options: Any) -> ladder.Outcome:
    """What the ladder makes of a job."""
    (vae,) = decoder.vaes
    return ladder.decode(decoder, Batch((item(decoder, vae, latents, **options),)), lambda _: None)[0]


@pytest.mark.parametrize("name", ["mochi", pytest.param("hunyuan-video-1.5", marks=pytest.mark.slow)])
def test_a_video_without_room_is_decoded_frame_by_frame_but_not_a_reproducible_one(
    scarce: Callable[[VideoCase, int], LocalDecoder], name: str
) -> None:
    case = CAUSAL[name]()
    decoder = scarce(case, 1)
    latents = latents_of(case.vae, 3, 2)

    made, bound = outcome(decoder, latents), outcome(decoder, latents, reproducible=True)

    assert isinstance(made, Decoded)
    assert made.switches == ("frame-by-frame",)
    whole_decoder = scarce(case, 3)
    plain = outcome(whole_decoder, latents)
    assert isinstance(plain, Decoded)
    assert plain.switches == ()
    for mine, clip in zip(made.clips, plain.clips, strict=True):
        off = mine.read(0, mine.shape[0]).astype(int) - clip.read(0, clip.shape[0])
        assert mine.shape == clip.shape
        assert abs(off).max() <= 1
    assert isinstance(bound, OutOfMemory), "its bits would be others"


@pytest.mark.parametrize("name", ["hunyuan-video", "ltx-2"])
def test_a_video_without_room_is_decoded_in_stretches_where_that_is_allowed(
    scarce: Callable[[VideoCase, int], LocalDecoder], name: str
) -> None:
    build, held = TILED[name]
    case = build()
    tiles = family_of(type(case.vae).__name__).frame_tiles
    assert tiles is not None
    decoder = scarce(case, tiles.latents)
    latents = latents_of(case.vae, held)

    refused, made = outcome(decoder, latents), outcome(decoder, latents, tiling=True)

    assert isinstance(refused, OutOfMemory)
    assert isinstance(made, Decoded)
    assert made.switches == ("frame-tiles",)
    scale = case.vae.temporal_compression_ratio
    assert [clip.shape[0] for clip in made.clips] == [(held - 1) * scale + 1]


def test_a_long_video_frame_by_frame_wants_no_more_room_than_a_short_one(
    scarce: Callable[[VideoCase, int], LocalDecoder],
) -> None:
    """A process of a CPU is killed rather than told: a short video of large frames must not be tried in vain."""
    case = mochi.mochi()
    decoder = scarce(case, 1)
    frame = item(decoder, case.vae_id, latents_of(case.vae, 1)).spec.picture_pixels
    needed = decoder._memory._costs[case.vae_id].sparing_bytes[MemoryMode.FRAME_BY_FRAME] * frame / SHARE
    specs = [item(decoder, case.vae_id, latents_of(case.vae, held)).spec for held in (2, 30)]

    for share, is_tried in ((1.01, True), (0.99, False)):
        decoder._shelf._limit_bytes = decoder._shelf.weight_bytes_of(case.vae_id) + int(share * needed)
        tried = [MemoryMode.FRAME_BY_FRAME in decoder.modes(spec) for spec in specs]
        assert tried == [is_tried, is_tried], share
    decoder._shelf._limit_bytes = None
    decoder._memory.note_out_of_memory(case.vae_id, frame, frame, MemoryMode.FRAME_BY_FRAME)
    assert not any(MemoryMode.FRAME_BY_FRAME in decoder.modes(spec) for spec in specs)
    assert decoder._memory.max_pixels(case.vae_id, 2**40) > 100 * frame, "whole it was not tried yet"
