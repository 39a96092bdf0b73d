"""What a job made to the bytes of a file: pixels to a PNG, JPEG or WebP, latents and raw tensors to safetensors."""

import io
from typing import Any, Final

from PIL import Image

from vaefarm_shared import latents
from vaefarm_shared.job import ImageFormat, JobSpec

from .decoder import Decoded, Encoded, Pixels

#: JPEG and lossy WebP quality unless the job says otherwise.
QUALITY: Final[int] = 90

#: zlib level of PNG: 1 costs a third of Pillow's default for a tenth more bytes (docs/decisions.md).
PNG_LEVEL: Final[int] = 1

#: A raw tensor's name inside its file: no one shall take it for latents.
RAW_NAME: Final[str] = "images"


def encoded_files(made: Decoded | Encoded, spec: JobSpec) -> list[bytes]:
    """Each picture's file, as the decoder made it, else encoded now; of latents or a raw tensor the one of it."""
    if isinstance(made, Encoded):
        return [latents.pack(made.latents)]
    if made.tensor is not None:
        return [latents.pack(made.tensor, RAW_NAME)]
    if made.pixels is None:
        return list(made.files)
    return [encode_image(pixels, spec) for pixels in made.pixels]


def encode_image(pixels: Pixels, spec: JobSpec) -> bytes:
    """(height, width, 3 or 4) uint8 -> the bytes of a file in the job's format."""
    return encode_pixels(pixels, spec.image_format, spec.quality, spec.lossless)


def encode_pixels(
    pixels: Pixels, image_format: ImageFormat, quality: int | None = None, lossless: bool = False
) -> bytes:
    """(height, width, 3 or 4) uint8 -> the bytes of a file. PNG and lossless WebP keep every value."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=image_format.upper(), **options_of(image_format, quality, lossless))
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
