"""Latents of videos against contracts: how many frames they make, and each refusal with what was expected."""

from typing import Any

import numpy as np
import pytest

from vaefarm_producer.submission import DecodeOptions, prepare
from vaefarm_shared.catalogue import Catalogue, Contract
from vaefarm_shared.checks import check_shape
from vaefarm_shared.errors import InvalidInput, InvalidLatents, InvalidOption
from vaefarm_shared.job import JobSpec


def contract_of(vae: str) -> Contract:
    contract = Catalogue.load()[vae].contract
    assert contract is not None
    return contract


def spec_of(vae: str, shape: tuple[int, ...], **options: Any) -> JobSpec:
    """What a submit of latents of that shape writes down."""
    given: DecodeOptions = {**options}  # type: ignore[typeddict-item]
    return prepare(np.zeros(shape, np.float16), vae, contract_of(vae), None, given).spec


@pytest.mark.parametrize(
    ("vae", "shape", "frames"),
    [
        ("wan", (1, 16, 21, 60, 104), 81),
        ("hunyuan-video", (1, 16, 33, 40, 64), 129),
        ("hunyuan-video-1-5", (2, 32, 31, 30, 53), 121),
        ("mochi", (1, 12, 4, 60, 106), 19),
        ("ltx-2", (1, 128, 16, 16, 24), 121),
        ("ltx-video", (1, 128, 21, 16, 24), 161),
        ("cogvideox-2b", (1, 13, 16, 60, 90), 49),
        ("cogvideox-2b", (1, 12, 16, 60, 90), 48),
        ("cogvideox-2b", (1, 1, 16, 60, 90), 1),
        ("svd", (1, 25, 4, 72, 128), 25),
        ("svd", (1, 14, 4, 72, 128), 14),
    ],
)
def test_latents_tell_their_frames_unless_their_layout_hides_them(
    vae: str, shape: tuple[int, ...], frames: int
) -> None:
    assert check_shape(vae, contract_of(vae), shape).num_frames == frames
    assert check_shape(vae, contract_of(vae), shape, num_frames=frames).num_frames == frames


def test_tokens_are_frames_by_rows_by_columns() -> None:
    pictures = check_shape("ltx-video", contract_of("ltx-video"), (2, 21 * 16 * 24, 128), 512, 768, 161)

    assert (pictures.layout, pictures.count, pictures.height, pictures.width) == ("video_tokens", 2, 512, 768)
    assert pictures.num_frames == 161


@pytest.mark.parametrize(("num_frames", "latent_frames"), [(81, 22), (88, 22), (161, 42), (1, 2)])
def test_the_latent_frame_that_makes_their_number_even_is_told_by_num_frames(
    num_frames: int, latent_frames: int
) -> None:
    shape = (1, latent_frames, 16, 96, 170)

    assert check_shape("x", contract_of("cogvideox-1-5"), shape, num_frames=num_frames).num_frames == num_frames


@pytest.mark.parametrize(
    ("vae", "shape", "size", "named"),
    [
        # Frames that fit no multiple.
        (
            "wan",
            (1, 16, 21, 60, 104),
            (None, None, 80),
            r"81 frames.*num_frames 80; it is made of 1 \+ 4n frames.*-1\)/4\+1",
        ),
        ("hunyuan-video", (1, 16, 15, 40, 64), (None, None, 60), r"decode to 57 frames.* 1 \+ 4n frames"),
        ("mochi", (1, 12, 4, 60, 106), (None, None, 20), r"decode to 19 frames.* 1 \+ 6n frames"),
        ("ltx-video", (1, 20 * 16 * 24, 128), (512, 768, 160), r"20 x 16 x 24.* 1 \+ 8n frames: VAE 'ltx-video' exp"),
        ("cogvideox-2b", (1, 12, 16, 60, 90), (None, None, 47), r"decode to 48 frames.* 1 \+ 8n or 8n frames"),
        ("cogvideox-1-5", (1, 22, 16, 60, 90), (None, None, 85), "decode to 81 or 88 frames.*num_frames 85.*1 . 8n or"),
        # Frames of another video.
        (
            "wan",
            (1, 16, 21, 60, 104),
            (None, None, 77),
            "decode to 81 frames; the job says num_frames 77: leave it out, or make it fit",
        ),
        (
            "svd",
            (1, 25, 4, 72, 128),
            (None, None, 14),
            r"decode to 25 frames.*make it fit .frames_first: \(n, frames, 4",
        ),
        (
            "cogvideox-1-5",
            (1, 22, 16, 60, 90),
            (None, None, 161),
            "decode to 81 or 88 frames.*num_frames 161: make it fit",
        ),
        ("ltx-video", (1, 21 * 16 * 24, 128), (512, 768, 121), r"8064 tokens.*need 16 x 16 x 24 = 6144: VAE"),
        ("ltx-video", (1, 21 * 16 * 24, 128), (768, 768, 161), r"8064 tokens.*need 21 x 24 x 24 = 12096"),
        # What must be said.
        ("ltx-video", (1, 21 * 16 * 24, 128), (512, 768, None), "need num_frames, height and width: pass what the"),
        ("ltx-video", (1, 21 * 16 * 24, 128), (None, None, 161), "need num_frames, height and width, of 32 pixels"),
        ("ltx-video", (1, 21 * 16 * 24, 128), (512, None, 161), "the job says height 512, width None"),
        ("ltx-video", (1, 8, 128), (16, 16, 161), "of 32 pixels at least; the job says height 16, width 16"),
        ("cogvideox-1-5", (1, 22, 16, 60, 90), (None, None, None), "need num_frames.*does not tell 81 frames from 88"),
        # What is no number of frames, or of a picture.
        ("wan", (1, 16, 21, 60, 104), (None, None, 0), "num_frames is 0; expected frames, a whole number above zero"),
        ("wan", (1, 16, 21, 60, 104), (None, None, True), "num_frames is True"),
        ("wan", (1, 16, 21, 60, 104), (None, None, 81.0), "num_frames is 81.0"),
        ("sdxl", (1, 4, 128, 128), (None, None, 1), "num_frames is 1; VAE 'sdxl' makes pictures: leave it out"),
        # A clip beyond the limits.
        ("wan", (1, 16, 62, 60, 104), (None, None, None), "245 frames.*at most 241.*max_frames allows more"),
        ("ltx-video", (1, 32 * 2, 128), (64, 32, 249), "249 frames.*at most 241"),
        ("svd", (1, 242, 4, 8, 8), (None, None, None), "242 frames.*at most 241"),
        ("mochi", (1, 12, 2, 1024, 1024), (None, None, None), "8192 x 8192 pixels.*at most 16777216"),
        # Axes in another order, or a picture's latents.
        ("cogvideox-2b", (1, 16, 13, 60, 90), (None, None, None), "have 13 channels.*expects 16: frames_first"),
        ("wan", (1, 21, 16, 60, 104), (None, None, None), r"have 21 channels.*expects 16: video: \(n, 16, \(frames-1"),
        ("wan", (1, 16, 60, 104), (None, None, None), "have rank 4.*expected video"),
    ],
)
def test_what_makes_no_video_is_refused_with_what_was_expected(
    vae: str, shape: tuple[int, ...], size: tuple[Any, Any, Any], named: str
) -> None:
    with pytest.raises(InvalidLatents, match=named):
        check_shape(vae, contract_of(vae), shape, *size)


@pytest.mark.parametrize(
    ("vae", "options", "named"),
    [
        ("wan", {"fps": 0}, "fps=0: .*greater than or equal to 0.1"),
        ("wan", {"fps": -1}, "fps=-1: .*greater than or equal to 0.1"),
        ("wan", {"fps": float("inf")}, "fps=inf"),
        ("wan", {"fps": 241}, "fps=241: .*less than or equal to 240"),
        ("sdxl", {"fps": 24}, "fps and video_format are for videos"),
        ("wan", {"decode_timestep": 0.05}, "decode_timestep=0.05 means nothing to VAE 'wan'.*leave it out"),
        ("wan", {"seed": 1}, "seed=1 means nothing to VAE 'wan'"),
        ("ltx-video", {"decode_noise_scale": 0.025}, "decode_noise_scale=0.025 means nothing to VAE 'ltx-video'"),
        ("ltx-video-0-9-1", {"decode_timestep": 0.05}, "expected a seed for it, or decode_noise_scale=0"),
        ("ltx-video-0-9-1", {"decode_timestep": 5, "seed": 1}, "decode_timestep=5.*less than or equal to 1"),
        ("svd", {"decode_chunk_size": 0}, "decode_chunk_size=0.*greater than or equal to 1"),
    ],
)
def test_an_option_that_means_nothing_is_refused(vae: str, options: dict[str, Any], named: str) -> None:
    contract = contract_of(vae)
    c, s = contract.latent_channels, 8
    shape = {"sdxl": (1, c, s, s), "svd": (1, 3, c, s, s)}.get(vae, (1, c, 3, s, s))

    with pytest.raises((InvalidOption, InvalidInput), match=named):
        spec_of(vae, shape, **options)


def test_latents_that_pipelines_denormalise_are_taken_so_unless_the_job_says_otherwise() -> None:
    shape = (1, 128, 2, 3, 2)

    assert spec_of("ltx-2", shape).normalised is False
    assert spec_of("ltx-2", shape, normalised=True).normalised is True
    assert spec_of("ltx-2", shape, scaling_factor=2.0).scaling_factor == 2.0
    assert spec_of("ltx-video", shape).normalised is True


def test_a_timestep_without_noise_needs_no_seed_and_noise_is_told_by_either() -> None:
    shape = (1, 128, 2, 3, 2)

    assert spec_of("ltx-video-0-9-1", shape).noise_scale == 0
    assert spec_of("ltx-video-0-9-1", shape, decode_timestep=0.05, decode_noise_scale=0).noise_scale == 0
    assert spec_of("ltx-video-0-9-1", shape, decode_timestep=0.05, seed=3).noise_scale == 0.05
    assert (
        spec_of("ltx-video-0-9-1", shape, decode_timestep=0.05, decode_noise_scale=0.025, seed=3).noise_scale == 0.025
    )
