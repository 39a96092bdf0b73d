"""Videos' files: MP4 and animated WebP by PyAV, or a zip of frames; written as frames leave the device."""

import io
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from tempfile import NamedTemporaryFile
from typing import Any, Final

from vaefarm_shared.budget import MP4_BYTES
from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.job import JobSpec

from .clips import Clip
from .encode import QUALITY, encode_image

#: How x264 trades time for bytes: beside a decode of a video either is little.
PRESET: Final[str] = "veryfast"

#: Share of the most bytes that an MP4 is reckoned to take at which its rate is capped: what a container adds.
CAPPED: Final[float] = 0.9

#: The highest such rate, in bits a second, that FFmpeg takes.
MOST_RATE: Final[int] = 2**31 - 1

#: FFmpeg's numbers for BT.709, of matrix, primaries and curve, and for luma from 16 to 235.
BT709, LIMITED_RANGE = 1, 1

#: Denominator up to which a rate of frames is a fraction: 23.976 is 24000/1001.
MOST_TICKS: Final[int] = 1001


def encode_clip(clip: Clip, spec: JobSpec) -> bytes:
    """A clip's file in the job's format.

    Raises:
        ConfigurationError: PyAV is not installed.
        OSError: the encoder's.
    """
    if spec.video_format == "zip":
        return _zipped(clip, spec)
    return _played(clip, spec)


def crf_of(quality: int | None) -> int:
    """x264's constant rate factor for a quality of 1 to 100: 51 to 13, and 17 where none is given."""
    return round(51 - 0.38 * (quality or QUALITY))


def _zipped(clip: Clip, spec: JobSpec) -> bytes:
    """Frames as 00000.png and so on; they are compressed already."""
    file, number = io.BytesIO(), 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for chunk in clip.chunks():
            for frame in chunk:
                # Without the time of day: the same job gives the same bytes.
                name = zipfile.ZipInfo(f"{number:05d}.{spec.image_format}")
                archive.writestr(name, encode_image(frame, spec))
                number += 1
    return file.getvalue()


def _played(clip: Clip, spec: JobSpec) -> bytes:
    """What a browser plays."""
    av = _pyav()
    rate = Fraction(spec.fps or 1).limit_denominator(MOST_TICKS)
    # The index goes to the front, so that a player begins before it has all: for that the file is opened anew by name.
    options = {"movflags": "+faststart"} if spec.video_format == "mp4" else {"loop": "0"}
    with NamedTemporaryFile(suffix=f".{spec.video_format}") as file:
        try:
            _write(av, file.name, spec, clip, rate, options)
        except av.error.FFmpegError as error:
            # Of which some are an OSError besides.
            raise OSError(str(error)) from error
        return file.read()


def _write(av: Any, path: str, spec: JobSpec, clip: Clip, rate: Fraction, options: dict[str, str]) -> None:
    is_mp4 = spec.video_format == "mp4"
    with av.open(path, "w", format=spec.video_format, options=options) as container:
        stream = container.add_stream("libx264" if is_mp4 else "libwebp_anim", rate=rate)
        stream.height, stream.width = spec.picture_size
        stream.options = _codec_options(spec, float(rate))
        stream.pix_fmt = _pixel_format(spec)
        if is_mp4:
            _say_colours(stream.codec_context)
        for frame in _frames(av, clip, is_mp4):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _frames(av: Any, clip: Clip, is_mp4: bool) -> Iterator[Any]:
    channels = "rgba" if clip.shape[-1] == 4 else "rgb24"
    for chunk in clip.chunks():
        for pixels in chunk:
            frame = av.VideoFrame.from_ndarray(pixels, format=channels)
            # What players take an untagged picture for is not the same everywhere: it is BT.709, and says so.
            yield frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG") if is_mp4 else frame


def _say_colours(context: Any) -> None:
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE


def _pixel_format(spec: JobSpec) -> str:
    if spec.video_format == "mp4":
        return "yuv420p"
    return "bgra" if spec.lossless or spec.picture_channels == 4 else "yuv420p"


def _codec_options(spec: JobSpec, fps: float) -> dict[str, str]:
    if spec.video_format == "webp":
        return {"lossless": "1" if spec.lossless else "0", "quality": str(spec.quality or QUALITY)}
    height, width = spec.picture_size
    rate = min(int(CAPPED * MP4_BYTES * 8 * height * width * fps), MOST_RATE)
    # The rate is capped so that the room that was reserved for it is enough, whatever it shows.
    return {"preset": PRESET, "crf": str(crf_of(spec.quality)), "maxrate": str(rate), "bufsize": str(rate // 2)}


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise ConfigurationError(
            "a video's file needs PyAV on the worker: pip install 'vaefarm[video]', or submit with video_format='zip'"
        ) from None
    return av
