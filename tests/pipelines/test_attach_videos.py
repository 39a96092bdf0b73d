"""`Farm.attach` on real pipelines that make videos: the files of their jobs are the pipelines' frames, bit for bit."""

from dataclasses import replace
from typing import Any, Final

import pytest
import redis
import torch
from tests.parity.pipelines import case as picture_case
from tests.parity.test_videos import BUILDERS, case, frames_of
from tests.parity.videos import SEED, VideoCase
from tests.pipelines.conftest import PATIENCE, FarmOf

from vaefarm_producer import Farm, InvalidOption, Job
from vaefarm_producer.pipeline_kinds import KINDS, VIDEO_KINDS
from vaefarm_shared import keys
from vaefarm_shared.job import JobSpec

#: Those that are run each time.
QUICK: Final = {"wan", "hunyuan-video-short", "cogvideox-1.5", "ltx"}
SAMPLED: Final = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BUILDERS]


def attached(farm: Farm, one: VideoCase, **options: Any) -> Job:
    """The job of a call with the case's arguments."""
    one.pipeline.set_progress_bar_config(disable=True)
    generate = farm.attach(one.pipeline, vae=one.vae_id, **options)
    return generate(**one.arguments, generator=torch.Generator().manual_seed(SEED))


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize("name", SAMPLED)
def test_its_frames_are_the_pipelines_though_that_may_have_no_vae(name: str, farm_of: FarmOf) -> None:
    one = case(name)
    without = one if one.needs_vae else one.without_vae()
    assert isinstance(without, VideoCase)
    job = attached(farm_of(one), without, reproducible=True, video_format="zip")

    made, own = frames_of(job), one.pictures()
    assert len(made) == len(own)
    for mine, theirs in zip(made, own, strict=True):
        assert mine.shape == theirs.shape
        assert (mine == theirs).all()


def test_every_known_class_that_makes_videos_is_one_of_a_case() -> None:
    tested = {type(case(name).pipeline).__name__ for name in BUILDERS}

    assert tested == {name for name, kind in KINDS.items() if kind in VIDEO_KINDS}


@pytest.mark.parametrize("farm_settings", ["http"], indirect=True)
def test_over_a_gateway_as_well_and_as_a_file_that_plays(farm_of: FarmOf) -> None:
    one = case("wan")

    video = attached(farm_of(one), one, fps=12).video(PATIENCE)

    said = video.record
    assert (said.video_format, said.num_frames, said.height, said.width, said.fps) == ("mp4", 5, 48, 32, 12)


def test_the_rate_is_the_calls_where_the_pipeline_is_told_one(farm_of: FarmOf) -> None:
    one = case("ltx")

    job = attached(farm_of(one), replace(one, arguments={**one.arguments, "frame_rate": 30}))

    assert job.video(PATIENCE).record.fps == 30


@pytest.mark.parametrize(
    ("name", "asked", "made"), [("ltx", 13, 9), ("cogvideox-1.5", 7, 8)], ids=["ltx", "cogvideox-1.5"]
)
def test_frames_that_a_pipeline_rounds_are_as_many_as_it_makes(
    name: str, asked: int, made: int, farm_of: FarmOf
) -> None:
    one = case(name)

    job = attached(farm_of(one), replace(one, arguments={**one.arguments, "num_frames": asked}))

    assert job.video(PATIENCE).record.num_frames == made


def test_noise_of_a_decode_has_the_generators_seed_or_one_that_is_drawn(farm: Farm, connection: redis.Redis) -> None:
    one = case("ltx-noise")
    generate = farm.attach(one.pipeline, vae=one.vae_id)
    used = torch.Generator().manual_seed(SEED)
    torch.rand(1, generator=used)

    jobs = [generate(**one.arguments, generator=each) for each in (torch.Generator().manual_seed(SEED), used)]
    new, drawn = (JobSpec.from_json(connection.hget(keys.job(job.id), "spec") or b"") for job in jobs)

    assert (new.decode_timestep, new.decode_noise_scale, new.seed) == (0.3, 0.2, SEED)
    assert drawn.seed not in (None, SEED)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wan", {"vae": "flux"}, "a WanPipeline makes videos, and VAE 'flux' pictures"),
        ("wan", {"vae": "wan", "preview": "taesdxl"}, "a preview is a picture, and a WanPipeline makes videos"),
    ],
)
def test_what_does_not_fit_a_pipeline_of_videos_is_refused_as_it_is_attached(
    name: str, options: dict[str, Any], message: str, farm: Farm
) -> None:
    with pytest.raises(InvalidOption, match=message):
        farm.attach(case(name).pipeline, **options)


def test_what_is_for_videos_is_refused_of_a_pipeline_that_makes_pictures(farm: Farm) -> None:
    one = picture_case("flux")

    with pytest.raises(InvalidOption, match="fps is for videos; a FluxPipeline makes pictures: leave it out"):
        farm.attach(one.pipeline, vae=one.vae_id, fps=24)


@pytest.mark.parametrize(("left_out", "said"), [("height", "height and width"), ("num_frames", "num_frames")])
def test_what_tokens_of_videos_do_not_say_must_be_in_the_call(
    left_out: str, said: str, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = case("ltx")
    generate = farm.attach(one.pipeline, vae=one.vae_id)
    monkeypatch.setattr(one.pipeline.transformer, "forward", None)

    with pytest.raises(InvalidOption, match=f"LTXPipeline was called without {said}"):
        generate(**{**one.arguments, left_out: None})


def test_videos_of_one_call_are_told_one_timestep(farm: Farm) -> None:
    one = case("ltx-noise")
    generate = farm.attach(one.pipeline, vae=one.vae_id)

    with pytest.raises(InvalidOption, match="decode_timestep has another number for each video"):
        generate(**{**one.arguments, "decode_timestep": [0.1, 0.2]})
