"""What a job made to the bytes of a file: pixels to a PNG, JPEG or WebP, latents and raw tensors to safetensors."""

import io
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from vaefarm_shared import latents
from vaefarm_shared.job import ImageFormat, JobSpec

from .decoder import Decoded, Encoded, Pixels
from .picture_metadata import embedded, save_options

#: JPEG and lossy WebP quality unless the job says otherwise.
QUALITY: Final[int] = 90

#: zlib level of PNG: 1 costs a third of Pillow's default for a tenth more bytes (docs/decisions.md).
PNG_LEVEL: Final[int] = 1

#: A raw tensor's name inside its file: no one shall take it for latents.
RAW_NAME: Final[str] = "images"


def encoded_files(made: Decoded | Encoded, spec: JobSpec) -> list[bytes]:
    """Each picture's file, as the decoder made it, else encoded now; of latents or a raw tensor the one of it.

    What is made here has the job's metadata in it.
    """
    metadata = embedded(spec)
    if isinstance(made, Encoded):
        return [latents.pack(made.latents, metadata=metadata)]
    if made.tensor is not None:
        return [latents.pack(made.tensor, RAW_NAME, metadata)]
    if made.clips:
        # PyAV is loaded for videos alone.
        from .video_files import encode_clip

        return [encode_clip(clip, spec) for clip in made.clips]
    if made.pixels is None:
        return list(made.files)
    return [encode_image(pixels, spec, metadata, index) for index, pixels in enumerate(made.pixels)]


def encode_image(pixels: Pixels, spec: JobSpec, metadata: Mapping[str, str] | None = None, index: int = 0) -> bytes:
    """(height, width, 3 or 4) uint8 -> the bytes of a file in the job's format, with metadata in it if there are any.

    Args:
        index: The picture's place in the job.
    """
    more = save_options(metadata, spec, index) if metadata else {}
    return encode_pixels(pixels, spec.image_format, spec.quality, spec.lossless, **more)


def encode_pixels(
    pixels: Pixels, image_format: ImageFormat, quality: int | None = None, lossless: bool = False, **more: Any
) -> bytes:
    """(height, width, 3 or 4) uint8 -> the bytes of a file. PNG and lossless WebP keep every value.

    Args:
        more: What else Pillow is told: metadata.
    """
    file = io.BytesIO()
    options = options_of(image_format, quality, lossless) | more
    Image.fromarray(pixels).save(file, format=image_format.upper(), **options)
    return file.getvalue()


def options_of(image_format: ImageFormat, quality: int | None = None, lossless: bool = False) -> dict[str, Any]:
    """What Pillow is told besides the format (docs/performance.md has what each costs)."""
    if image_format == "png":
        return {"compress_level": PNG_LEVEL}
    if image_format == "jpeg":
        return {"quality": quality or QUALITY}
    if lossless:
        # The least effort: quicker than PNG at level 1, and smaller.
        return {"lossless": True, "quality": 0, "method": 0}
    # Two fifths of the time of Pillow's method 4, as true a picture, a few bytes in a hundred more.
    return {"quality": quality or QUALITY, "method": 1}
