"""A video's life: latents in, one file out, over Redis and over HTTP; what is wrong with a video is said before it is
queued."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import redis
import torch
from PIL import Image, ImageSequence
from tests.conftest import Serve

from vaefarm_producer import Farm, InvalidInput, InvalidOption, JobFailed
from vaefarm_shared import blobs, keys
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import RefusedPicture
from vaefarm_shared.job import JobSpec
from vaefarm_shared.settings import Settings
from vaefarm_worker.after_decode import AfterDecodes, Step
from vaefarm_worker.clips import Clip
from vaefarm_worker.decoder import Decoded
from vaefarm_worker.fake_decoder import FakeDecoder

#: 13 frames of 32 x 48 pixels.
LATENTS = torch.linspace(-1, 1, 16 * 4 * 4 * 6).reshape(1, 16, 4, 4, 6)


@pytest.fixture
def farm(farm_settings: Settings) -> Any:
    with Farm(settings=farm_settings) as farm:
        yield farm


@pytest.fixture
def fake(settings: Settings) -> FakeDecoder:
    return FakeDecoder([Catalogue.load(settings.catalogue)["wan"]])


def test_a_video_is_one_file_that_plays_and_its_record_says_how(
    farm: Farm, serve: Serve, fake: FakeDecoder, tmp_path: Path
) -> None:
    job = farm.submit(LATENTS, vae="wan", num_frames=13)
    serve(fake)

    video = job.video(timeout=20)
    video.save(tmp_path / "wan.mp4")

    said = video.record
    assert (said.num_frames, said.height, said.width, said.video_format) == (13, 32, 48, "mp4")
    assert (said.fps, said.duration_seconds) == (16, 13 / 16), "the rate of Wan's pipelines"
    with av.open(tmp_path / "wan.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.height, stream.width, stream.average_rate) == (13, 32, 48, 16)
    with pytest.raises(InvalidOption, match=r"makes videos and has videos, no pictures; use videos\(\)"):
        job.image()


def test_several_videos_of_one_job_and_other_formats(farm: Farm, serve: Serve, fake: FakeDecoder) -> None:
    two = farm.submit(torch.cat([LATENTS, -LATENTS]), vae="wan", video_format="webp", fps=10, lossless=True)
    frames = farm.submit(LATENTS, vae="wan", video_format="zip", image_format="webp", lossless=True)
    raw = farm.submit(LATENTS, vae="wan", output_type="pt")
    serve(fake)

    first, second = two.videos(timeout=20)
    with Image.open(io.BytesIO(first.data)) as one, Image.open(io.BytesIO(second.data)) as other:
        assert [sum(1 for _ in ImageSequence.Iterator(image)) for image in (one, other)] == [13, 13]
        assert not np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))
    with pytest.raises(InvalidOption, match="has 2 videos"):
        two.video()
    with zipfile.ZipFile(io.BytesIO(frames.video(timeout=20).data)) as archive:
        assert len(archive.namelist()) == 13
    assert raw.tensor(timeout=20).shape == (1, 3, 13, 32, 48)


@pytest.mark.parametrize(
    ("latents", "options", "message"),
    [
        (LATENTS, {"num_frames": 12}, "decode to 13 frames; the job says num_frames 12; it is made of 1 \\+ 4n frames"),
        (LATENTS, {"num_frames": 17}, "decode to 13 frames; the job says num_frames 17: leave it out"),
        (LATENTS, {"num_frames": 0}, "num_frames is 0; expected frames, a whole number above zero"),
        (LATENTS, {"fps": 0}, "fps=0: Input should be greater than or equal to 0.1"),
        (LATENTS, {"fps": 1e-9}, "fps=1e-09: Input should be greater than or equal to 0.1"),
        (LATENTS, {"fps": 1000}, "fps=1000: Input should be less than or equal to 240"),
        (LATENTS, {"fps": float("nan")}, "fps=nan"),
        (LATENTS, {"video_format": "gif"}, "video_format='gif': Input should be 'mp4', 'webp' or 'zip'"),
        (LATENTS, {"image_format": "png"}, "image_format is that of a video's frames in a zip"),
        (LATENTS, {"lossless": True}, "lossless is for webp"),
        (LATENTS, {"output_type": "pt", "video_format": "zip"}, "leave video_format out"),
        (LATENTS, {"height": 64}, "decode to height 32, width 48"),
        (torch.zeros(1, 16, 62, 4, 6), {}, "decode to 245 frames; VAE 'wan' takes at most 241 in one video"),
        (LATENTS[:, :, 0], {}, r"have rank 4, .*expected video: \(n, 16, \(frames-1\)/4\+1, height/8, width/8\)"),
        (LATENTS[:, :4], {}, "have 4 channels; VAE 'wan' expects 16"),
    ],
)
def test_what_is_wrong_with_a_video_is_said_before_it_is_queued(
    farm: Farm, connection: redis.Redis, latents: torch.Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        farm.submit(latents, vae="wan", **options)
    assert connection.keys(keys.job("*")) == []


@pytest.mark.parametrize("options", [{"num_frames": 1}, {"fps": 16.0}, {"video_format": "webp"}])
def test_a_picture_has_no_frames(farm: Farm, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="makes pictures"):
        farm.submit(torch.zeros(1, 4, 8, 8), vae="demo", **options)


def test_a_video_is_a_job_that_older_workers_hand_back_by_name(settings: Settings) -> None:
    with Farm(settings=settings) as farm:
        spec = farm.prepare(LATENTS, vae="wan").spec
        picture = farm.prepare(torch.zeros(1, 4, 8, 8), vae="demo").spec

    assert json.loads(spec.to_json())["version"] == 4
    assert json.loads(picture.to_json())["version"] == 1
    assert spec.pixels == 13 * 32 * 48
    assert JobSpec.from_json(spec.to_json()).num_frames == 13


def test_what_checks_pictures_sees_each_frame_and_may_refuse_the_video(settings: Settings) -> None:
    with Farm(settings=settings) as farm:
        spec = farm.prepare(LATENTS, vae="wan").spec
    seen: list[int] = []

    def darken(frames: np.ndarray, spec: JobSpec) -> np.ndarray:
        seen.append(len(frames))
        if len(seen) > 13:
            raise RefusedPicture("not this one")
        return frames // 2

    steps = AfterDecodes((Step("darken", darken, False),))
    frames = np.full((13, 32, 48, 3), 200, np.uint8)
    made = Decoded(None, "fake", clips=(Clip((13, 32, 48, 3), lambda start, stop: frames[start:stop]),))

    (clip,) = steps.apply(made, spec).clips
    assert np.concatenate(list(clip.chunks(32 * 48 * 3))).max() == 100
    assert seen == [1] * 13
    with pytest.raises(RefusedPicture):
        list(clip.chunks())


def test_a_result_that_redis_is_not_given_fails_with_what_to_set(
    farm: Farm, serve: Serve, fake: FakeDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "MAX_REDIS_BYTES", 1000)
    job = farm.submit(LATENTS, vae="wan", video_format="zip")
    serve(fake)

    with pytest.raises(JobFailed, match="VAEFARM_STORE=file:///DIR"):
        job.video(timeout=20)
    assert job.record().attempts == 1
