"""Videos' files hold the frames that were decoded, at the rate that was asked for, and are written a few at a time."""

import io
import zipfile
from itertools import pairwise
from typing import Any
from weakref import WeakSet

import av
import numpy as np
import pytest
from benchmarks import clip_writer
from PIL import Image, ImageSequence

from vaefarm_shared.budget import picture_bytes
from vaefarm_shared.job import MAX_FPS, MIN_FPS, JobSpec
from vaefarm_worker import clips
from vaefarm_worker.clips import Clip, Frames
from vaefarm_worker.video_files import crf_of, encode_clip

FRAMES, HEIGHT, WIDTH = 17, 96, 128


def spec_of(**options: Any) -> JobSpec:
    frames, height, width = (options.pop(name, size) for name, size in (("frames", FRAMES), *SIZES))
    fixed = {"id": "clip", "vae": "wan", "dtype": "float32", "layout": "video", "count": 1, "request_hash": ""}
    shape = (1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
    return JobSpec(
        **{"fps": 16, "num_frames": frames, "height": height, "width": width, **fixed, "shape": shape, **options}
    )


SIZES = (("height", HEIGHT), ("width", WIDTH))


def smooth(frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> Frames:
    """Colours that flow, as a video's do: few of them in a place, and others in the next frame."""
    small = np.random.default_rng(0).integers(0, 256, (frames + 1, 4, 6, channels), np.uint8)
    pictures = [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in small]
    return np.stack([(one // 2 + other // 2) for one, other in pairwise(pictures)])


class Held(np.ndarray[Any, np.dtype[np.uint8]]):
    """Frames that can be watched: an array has no place for weak references."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def clip_of(frames: Frames) -> Clip:
    count, height, width, channels = frames.shape
    return Clip((count, height, width, channels), lambda start, stop: frames[start:stop])


@pytest.mark.parametrize("fps", [16, 24, 23.976, 0.5, 60])
def test_an_mp4_has_the_frames_the_size_and_the_rate_and_is_close_to_what_was_decoded(fps: float) -> None:
    frames = smooth()

    data = encode_clip(clip_of(frames), spec_of(fps=fps))

    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.height, stream.width) == frames.shape[:3]
        assert float(stream.average_rate or 0) == pytest.approx(fps, rel=1e-4)
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p", "what every player plays"
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    off = np.abs(read.astype(int) - frames)
    assert off.mean() < 4, "half of the colours' samples are gone"
    assert np.quantile(off, 0.999) < 32
    assert data.index(b"moov") < data.index(b"mdat"), "it is played before all of it is there"


def test_better_quality_is_closer_and_takes_more_bytes() -> None:
    frames = smooth()
    files = [encode_clip(clip_of(frames), spec_of(quality=quality)) for quality in (30, 60, 95)]

    assert sorted(files, key=len) == files
    assert (crf_of(1), crf_of(None), crf_of(100)) == (51, 17, 13)


@pytest.mark.parametrize("fps", [16, MIN_FPS])
def test_noise_takes_no_more_than_the_room_that_was_reserved(fps: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (49, 256, 256, 3), np.uint8)
    spec = spec_of(frames=49, height=256, width=256, quality=100, fps=fps)

    assert len(encode_clip(clip_of(noise), spec)) < picture_bytes(spec)


def test_a_large_video_at_the_highest_rate_is_written() -> None:
    frames = np.zeros((1, 2176, 3840, 3), np.uint8)

    assert encode_clip(clip_of(frames), spec_of(frames=1, height=2176, width=3840, fps=MAX_FPS))


def test_what_the_encoder_refuses_is_an_error_of_writing() -> None:
    frames = np.zeros((1, 63, 64, 3), np.uint8)

    with pytest.raises(OSError, match="libx264"):
        encode_clip(clip_of(frames), spec_of(frames=1, height=63, width=64))


def test_a_webp_is_animated_at_that_rate_and_without_loss_is_what_was_decoded() -> None:
    frames = smooth()

    with Image.open(
        io.BytesIO(encode_clip(clip_of(frames), spec_of(video_format="webp", lossless=True, fps=8)))
    ) as image:
        assert (image.size, image.info["loop"]) == ((WIDTH, HEIGHT), 0)
        assert sum(1 for _ in ImageSequence.Iterator(image)) == FRAMES
        for place, frame in enumerate(frames):
            image.seek(place)
            assert np.array_equal(np.asarray(image.convert("RGB")), frame), place
            assert image.info["duration"] == 125


def test_a_lossy_webp_is_close_and_smaller() -> None:
    frames = smooth()
    files = {
        lossless: encode_clip(clip_of(frames), spec_of(video_format="webp", lossless=lossless))
        for lossless in (True, False)
    }

    with Image.open(io.BytesIO(files[False])) as image:
        image.seek(3)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frames[3]).mean() < 3
    assert len(files[False]) < len(files[True])


@pytest.mark.parametrize(("image_format", "channels"), [("png", 3), ("png", 4), ("webp", 3)])
def test_a_zip_has_each_frame_by_its_number_and_the_same_bytes_each_time(image_format: str, channels: int) -> None:
    frames = smooth(channels=channels)
    options = {"video_format": "zip", "image_format": image_format, "picture_channels": channels, "fps": None}
    spec = spec_of(lossless=image_format == "webp", **options)

    data = encode_clip(clip_of(frames), spec)

    assert data == encode_clip(clip_of(frames), spec)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == [f"{place:05d}.{image_format}" for place in range(FRAMES)]
        for name, frame in zip(archive.namelist(), frames, strict=True):
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(archive.read(name)))), frame)


@pytest.mark.parametrize("video_format", ["mp4", "webp", "zip"])
def test_no_more_than_two_chunks_of_frames_are_held_at_a_time(
    video_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "CHUNK_BYTES", 2 * HEIGHT * WIDTH * 3)
    held, most = WeakSet[Held](), 0

    def read(start: int, stop: int) -> Frames:
        nonlocal most
        chunk = np.zeros((stop - start, HEIGHT, WIDTH, 3), np.uint8).view(Held)
        held.add(chunk)
        most = max(most, len(held))
        return chunk

    encode_clip(Clip((FRAMES, HEIGHT, WIDTH, 3), read), spec_of(video_format=video_format))

    assert most == 2, "one that is written while the next is read"


def test_what_is_done_to_frames_is_done_to_each_chunk() -> None:
    frames = smooth()
    darker = clip_of(frames).through(lambda chunk: chunk // 2).through(lambda chunk: chunk + 1)

    chunks = list(darker.chunks(5 * HEIGHT * WIDTH * 3))

    assert [len(chunk) for chunk in chunks] == [5, 5, 5, 2]
    assert np.array_equal(np.concatenate(chunks), frames // 2 + 1)


def test_of_129_frames_of_720_x_1280_two_chunks_stand_in_memory_at_most() -> None:
    made = clip_writer.written("mp4", clip_writer.SHAPE)

    assert (clip_writer.SHAPE, made.chunks) == ((129, 720, 1280, 3), 2)
    assert made.frame_bytes <= 2 * clips.CHUNK_BYTES
    assert made.file_bytes > 100_000
