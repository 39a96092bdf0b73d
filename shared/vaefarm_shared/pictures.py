"""Pictures as a VAE's encoder takes them: (height, width, 3) uint8, whatever they came as.

Defined for all: the picture is turned as its Exif says; what is transparent is laid over white; 16 bits become 8 by
`value * 255 / 65535`, rounded; palettes, grey and CMYK become RGB; colour profiles are left aside, as diffusers leaves
them. Animations, and whatever is more or less than one picture, are refused.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import InvalidPicture
from .picture_files import GREY_ALPHA, PNG_SIGNATURE, RGBA, PictureFile, read_picture_file

Pixels = npt.NDArray[np.uint8]

#: Bytes of the largest picture's file that is taken.
MAX_PICTURE_BYTES: Final[int] = 64 * 1024 * 1024

#: Pixels of the largest picture that is taken, whatever a VAE's contract allows: 8192 x 8192.
MAX_PICTURE_PIXELS: Final[int] = 8192 * 8192

#: Exif's tag for how the camera was held.
ORIENTATION: Final[int] = 0x0112

#: Rows that are laid over white at a time: what that takes besides the picture stays small.
ROWS: Final[int] = 256


def open_picture(data: bytes, max_pixels: int = MAX_PICTURE_PIXELS) -> Pixels:
    """(height, width, 3) uint8 of a PNG's, JPEG's or WebP's bytes.

    Args:
        max_pixels: Height times width, above which nothing is decoded.

    Raises:
        InvalidPicture: it is another file, too large, an animation, truncated or damaged, or other bytes follow it.
    """
    if len(data) > MAX_PICTURE_BYTES:
        raise InvalidPicture(f"the picture's file has {len(data)} bytes; at most {MAX_PICTURE_BYTES} are taken")
    file = read_picture_file(data)
    check_pixels(file.height, file.width, max_pixels)
    with _decoding(f"{file.image_format} picture"):
        pixels = _deep(file) if file.depth == 16 else _shallow(file)
    return turned(pixels, file.orientation)


def flatten_image(image: Image.Image, max_pixels: int = MAX_PICTURE_PIXELS) -> Pixels:
    """(height, width, 3) uint8 of a PIL image, by the same rules.

    Raises:
        InvalidPicture: it is an animation, too large, or its values have no known range (modes 'I' and 'F').
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InvalidPicture(f"the image has {frames} frames; expected a single picture: give them one by one")
    check_pixels(image.height, image.width, max_pixels)
    with _decoding(f"image of mode {image.mode!r}"):
        orientation = image.getexif().get(ORIENTATION, 1)
        if image.mode.startswith("I;16"):
            pixels = _as_rgb(eight_bits(np.asarray(image).astype(np.uint16)))
        else:
            pixels = _flattened(image)
    return turned(pixels, orientation)


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raise InvalidPicture for a picture of no pixels, or of more than are allowed."""
    most = min(max_pixels, MAX_PICTURE_PIXELS)
    if height < 1 or width < 1:
        raise InvalidPicture(f"the picture is {width} x {height} pixels; expected at least one each way")
    if height * width > most:
        raise InvalidPicture(
            f"the picture is {width} x {height} = {height * width} pixels; at most {most} are taken: make it smaller"
        )


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """(h, w, 3) as it is stored -> as it is looked at, by Exif's orientation; another than 1 to 8 turns nothing."""
    match orientation:
        case 2:
            pixels = pixels[:, ::-1]
        case 3:
            pixels = pixels[::-1, ::-1]
        case 4:
            pixels = pixels[::-1]
        case 5:
            pixels = pixels.transpose(1, 0, 2)
        case 6:
            pixels = np.rot90(pixels, -1)
        case 7:
            pixels = pixels.transpose(1, 0, 2)[::-1, ::-1]
        case 8:
            pixels = np.rot90(pixels)
    return np.ascontiguousarray(pixels)


def over_white(colours: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(h, w, c) colours with (h, w) opacity -> what is seen of them before white, in the same uint8 or uint16."""
    top = np.uint32(np.iinfo(colours.dtype).max)
    seen = np.empty_like(colours)
    for start in range(0, len(colours), ROWS):
        rows = slice(start, start + ROWS)
        part = alpha[rows, :, None].astype(np.uint32)
        # At most 65535 * 65535 + 32767, which 32 bits hold.
        seen[rows] = (colours[rows] * part + top * (top - part) + top // 2) // top
    return seen


def eight_bits(values: npt.NDArray[Any]) -> Pixels:
    """uint16 -> `value * 255 / 65535`, rounded: 65535 is 257 times 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Make whatever Pillow's decoders raise an InvalidPicture."""
    try:
        yield
    except (InvalidPicture, MemoryError):
        raise
    except Exception as error:
        raise InvalidPicture(
            f"the {what} cannot be decoded: {error}; expected a whole picture: save it anew"
        ) from error


def _shallow(file: PictureFile) -> Pixels:
    """Of at most 8 bits a sample."""
    image = _decoded(file)
    if file.transparent is None:
        return _flattened(image)
    colours = np.asarray(image.convert("RGB"))
    key = [sample * 255 // (2**file.depth - 1) for sample in file.transparent]
    return np.where((colours == key).all(-1, keepdims=True), np.uint8(255), colours)


def _deep(file: PictureFile) -> Pixels:
    """Of 16 bits a sample, of which Pillow gives the upper 8 alone."""
    if file.colours == GREY_ALPHA:
        bytewise = np.asarray(_decoded(_as_rgba(file))).astype(np.uint16)
        samples = bytewise[..., ::2] << 8 | bytewise[..., 1::2]
    elif (image := _decoded(file)).mode == "I;16":
        samples = np.asarray(image)[..., None]
    else:
        upper = np.asarray(image).astype(np.uint16)
        # Read as if the lower byte came first, the other half of each sample is what remains.
        samples = upper << 8 | np.asarray(_decoded(file, rawmode=f"{image.mode};16L"))
    if file.colours in (GREY_ALPHA, RGBA):
        samples = over_white(samples[..., :-1], samples[..., -1])
    if file.transparent is not None:
        samples = np.where((samples == file.transparent).all(-1, keepdims=True), np.uint16(65535), samples)
    return _as_rgb(eight_bits(samples))


def _decoded(file: PictureFile, rawmode: str | None = None) -> Image.Image:
    """Decode a file of known size. `rawmode`: how Pillow takes its samples, where not as it would."""
    image = Image.open(io.BytesIO(file.data), formats=(file.image_format,))
    if image.size != (file.width, file.height):
        raise InvalidPicture(f"the picture's header says {file.width} x {file.height}, its decoder {image.size}")
    if rawmode is not None:
        image.tile = [tile._replace(args=rawmode) for tile in image.tile]
    image.load()
    return image


def _as_rgba(file: PictureFile) -> PictureFile:
    """A PNG of 16-bit grey and alpha as one of 8-bit RGBA, which has the very same bytes."""
    place = len(PNG_SIGNATURE)
    header = b"IHDR" + struct.pack(">IIBB", file.width, file.height, 8, RGBA) + file.data[place + 18 : place + 21]
    data = b"".join((file.data[: place + 4], header, zlib.crc32(header).to_bytes(4), file.data[place + 25 :]))
    return PictureFile("PNG", file.width, file.height, data, colours=RGBA)


def _flattened(image: Image.Image) -> Pixels:
    """(h, w, 3) of an image with 8 bits a sample, or fewer."""
    if image.mode in ("I", "F"):
        raise InvalidPicture(
            f"the image has mode {image.mode!r}, whose values have no known range; expected RGB: convert it before"
        )
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return over_white(rgba[..., :3], rgba[..., 3])
    return np.asarray(image.convert("RGB"))


def _as_rgb(pixels: Pixels) -> Pixels:
    """(h, w), (h, w, 1) or (h, w, 3) -> (h, w, 3)."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
