"""The farm's videos are the pipelines' own, frame by frame, from the latents that those return."""

import io
import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Serve
from tests.parity import cogvideox, hunyuan, ltx, mochi, svd, videos
from tests.parity.videos import VideoCase

from vaefarm_producer import Farm, Job
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.local_decoder import LocalDecoder

BUILDERS: Final[dict[str, Callable[[], VideoCase]]] = {
    "wan": videos.wan,
    "wan-two": videos.wan_of_two_videos,
    "wan-2.2": videos.wan_2_2,
    "hunyuan-video": hunyuan.hunyuan_video,
    "hunyuan-video-short": hunyuan.short_hunyuan_video,
    "hunyuan-video-1.5": hunyuan.hunyuan_video_1_5,
    "cogvideox": cogvideox.cogvideox,
    "cogvideox-even": cogvideox.cogvideox_of_pairs,
    "cogvideox-1.5": cogvideox.cogvideox_1_5,
    "mochi": mochi.mochi,
    "ltx": ltx.ltx,
    "ltx-two": ltx.ltx_of_two_videos,
    "ltx-unpacked": ltx.ltx_condition,
    "ltx-timestep": ltx.ltx_with_timestep,
    "ltx-noise": ltx.ltx_with_noise,
    "ltx-2": ltx.ltx_2,
    "svd": svd.svd,
    "svd-chunks": svd.svd_in_chunks,
}


#: Those that are run in bfloat16 too. LTX-2's pipeline narrows latents before it denormalises them where it decodes
#: itself, but returns them denormalised in float32; Stable Video Diffusion's takes no picture in bfloat16.
NARROW: Final = [f"{name} in bfloat16" for name in BUILDERS if name not in ("ltx-2", "svd", "svd-chunks")]


@cache
def case(name: str) -> VideoCase:
    """The case of that name, built once."""
    plain, _, dtype = name.partition(" in ")
    if not dtype:
        return BUILDERS[name]()
    narrow = case(plain).in_dtype(getattr(torch, dtype))
    assert isinstance(narrow, VideoCase)
    return narrow


@pytest.fixture(params=BUILDERS)
def one(request: pytest.FixtureRequest) -> VideoCase:
    return case(request.param)


@pytest.fixture
def catalogue(one: VideoCase, tmp_path: Path) -> Path:
    """An operator's catalogue that points the built-in entry at the pipeline's VAE."""
    one.vae.save_pretrained(tmp_path / "vae")
    path = tmp_path / "catalogue.toml"
    fields = {"path": str(tmp_path / "vae"), **one.entry}
    lines = (f"{name} = {json.dumps(value)}" for name, value in fields.items())
    path.write_text(f"[vaes.{one.vae_id}]\n" + "\n".join(lines))
    return path


def frames_of(job: Job) -> list[np.ndarray]:
    """(frames, height, width, 3) uint8 of each of a job's videos, which are zips of PNG."""
    found = []
    for video in job.videos(timeout=30):
        with zipfile.ZipFile(io.BytesIO(video.data)) as archive:
            names = sorted(archive.namelist())
            found.append(np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names]))
    return found


def test_videos_are_the_same_each_time_and_others_without_any_of_the_vaes_constants(one: VideoCase) -> None:
    made = one.pictures()

    assert np.std(made) > 20, "videos that show something"
    assert np.array_equal(made, one.pictures())
    assert one.constants
    for constant in one.constants:
        assert not np.array_equal(made, one.without(constant).pictures()), constant


def test_without_its_vae_a_pipeline_gives_the_same_latents(one: VideoCase) -> None:
    if not one.needs_vae:
        assert torch.equal(one.without_vae().latents(), one.latents())


def test_the_farms_videos_are_the_pipelines(one: VideoCase, farm: Farm, settings: Settings, serve: Serve) -> None:
    job = farm.submit(one.latents(), vae=one.vae_id, reproducible=True, video_format="zip", **one.options)
    serve(LocalDecoder([Catalogue.load(settings.catalogue)[one.vae_id]], "cpu"))

    for made, own in zip(frames_of(job), one.pictures(), strict=True):
        assert np.array_equal(made, own)
    assert job.record().report is not None


@pytest.mark.slow
@pytest.mark.parametrize("one", NARROW, indirect=True)
def test_in_bfloat16_too_the_farms_videos_are_the_pipelines(
    one: VideoCase, farm: Farm, settings: Settings, serve: Serve
) -> None:
    job = farm.submit(one.latents(), vae=one.vae_id, reproducible=True, video_format="zip", **one.options)
    serve(LocalDecoder([Catalogue.load(settings.catalogue)[one.vae_id]], "cpu"))

    for made, own in zip(frames_of(job), one.pictures(), strict=True):
        assert np.array_equal(made, own)


def test_latents_that_lie_otherwise_in_memory_make_the_same_videos(
    one: VideoCase, farm: Farm, settings: Settings, serve: Serve
) -> None:
    latents = one.latents()
    strided = latents.transpose(1, -1).contiguous().transpose(1, -1)
    assert not strided.is_contiguous()
    assert torch.equal(strided, latents)
    options = {"vae": one.vae_id, "reproducible": True, "video_format": "zip", **one.options}
    jobs = [farm.submit(held, **options) for held in (latents, strided)]
    serve(LocalDecoder([Catalogue.load(settings.catalogue)[one.vae_id]], "cpu"))

    assert np.array_equal(frames_of(jobs[0]), frames_of(jobs[1]))


@pytest.mark.slow
def test_a_video_that_need_not_be_reproducible_is_the_pipelines_within_a_level(
    one: VideoCase, farm: Farm, settings: Settings, serve: Serve
) -> None:
    job = farm.submit(one.latents(), vae=one.vae_id, video_format="zip", **one.options)
    serve(LocalDecoder([Catalogue.load(settings.catalogue)[one.vae_id]], "cpu"))

    assert np.abs(np.subtract(frames_of(job), one.pictures(), dtype=int)).max() <= 1


@pytest.mark.parametrize("one", ["wan", "wan-2.2"], indirect=True)
def test_a_raw_tensor_is_what_the_decoder_gives(one: VideoCase, farm: Farm, settings: Settings, serve: Serve) -> None:
    job = farm.submit(one.latents(), vae=one.vae_id, reproducible=True, output_type="pt")
    serve(LocalDecoder([Catalogue.load(settings.catalogue)[one.vae_id]], "cpu"))

    raw, own = job.tensor(timeout=30).numpy(), one.images("np")
    assert raw.shape == (1, 3, own.shape[1], *own.shape[2:4])
    assert np.abs(raw[0].transpose(1, 2, 3, 0) / 2 + 0.5 - own[0]).max() < 2**-11
