"""Images on their way into a VAE's encoder: a picture's file, uint8 pixels or a float tensor, checked and as bytes.

uint8 is (n, height, width, 3); float16, bfloat16 and float32 are (n, 3, height, width) in [-1, 1], as `vae.encode`
takes them.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from PIL import Image

from .catalogue import Contract
from .checks import MAX_LATENT_BYTES
from .errors import InvalidLatents, InvalidPicture
from .job import JobSpec, Layout
from .latents import STORAGE, HostTensor, dtype_of, is_tensor, read_tensor, to_host
from .pictures import check_pixels, flatten_image, open_picture

#: What each dtype of an image tensor is stored in.
IMAGE_STORAGE: Final[dict[str, type[np.generic]]] = {"uint8": np.uint8, **STORAGE}

#: Layouts in blocks of 2 x 2 latents. Pipelines with tokens of one latent round to whole blocks all the same.
PATCHED: Final[frozenset[Layout]] = frozenset({"packed", "patchified", "tokens"})

#: What an encode takes, for messages.
EXPECTED: Final[str] = (
    "expected the bytes of a PNG, JPEG or WebP, a PIL image, uint8 pixels (height, width, 3) or (n, height, width, 3),"
    " or a float tensor (n, 3, height, width) with values in [-1, 1]"
)


@dataclass(frozen=True, slots=True)
class Images(HostTensor):
    """One or several images of one size: uint8 (n, height, width, 3), or floats (n, 3, height, width) in [-1, 1]."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return size_of(self.shape, self.dtype)


def size_of(shape: tuple[int, ...], dtype: str) -> tuple[int, int]:
    """Height and width of an image tensor of that shape."""
    return (shape[1], shape[2]) if dtype == "uint8" else (shape[2], shape[3])


def from_image(image: Any, max_pixels: int) -> Images:
    """Take whatever an encode takes.

    Args:
        max_pixels: Height times width, above which nothing is decoded.

    Raises:
        InvalidPicture: it is something else, or too large; says what was expected.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return Images(open_picture(bytes(image), max_pixels)[None], "uint8")
    if isinstance(image, Image.Image):
        return Images(flatten_image(image, max_pixels)[None], "uint8")
    if not isinstance(image, Images) and not is_tensor(image):
        # A path too: whoever means a file's bytes reads them.
        raise InvalidPicture(f"the image is a {type(image).__name__}; {EXPECTED}")
    shape, dtype = tuple(image.shape), image.dtype if isinstance(image, Images) else dtype_of(image)
    if dtype == "uint8" and len(shape) == 3:
        shape = (1, *shape)
    channels = 3 if dtype == "uint8" else 1
    if dtype not in IMAGE_STORAGE or len(shape) != 4 or shape[channels] != 3 or not shape[0]:
        raise InvalidPicture(f"the image has dtype {dtype} and shape {tuple(image.shape)}; {EXPECTED}")
    check_pixels(*size_of(shape, dtype), max_pixels)
    size_bytes = prod(shape) * np.dtype(IMAGE_STORAGE[dtype]).itemsize
    if size_bytes > MAX_LATENT_BYTES:
        raise InvalidPicture(
            f"the image tensor has {size_bytes} bytes; at most {MAX_LATENT_BYTES} are taken: encode it as several"
        )
    images = Images((image.array if isinstance(image, Images) else to_host(image)).reshape(shape), dtype)
    check_values(images)
    return images


def check_values(images: Images) -> None:
    """Raise InvalidPicture for values that are not within [-1, 1]."""
    if images.dtype == "uint8":
        return
    values = images.numpy()
    low, high = float(values.min()), float(values.max())
    # NaN is in no range: min and max pass it on.
    if not (low >= -1 and high <= 1):
        raise InvalidPicture(
            f"the image tensor has values from {low:g} to {high:g}; expected them in [-1, 1]: 2 * x - 1 of a picture in"
            " [0, 1]; uint8 pixels are taken as they are"
        )


def latents_shape(vae: str, contract: Contract, count: int, height: int, width: int) -> tuple[int, ...]:
    """(count, channels, height / scale, width / scale), the shape of the latents that a VAE encodes such images to.

    Raises:
        InvalidPicture: too many or too large images, or a size that is no multiple of what the VAE needs; names the
            nearest. Or the VAE's pictures have an alpha channel.
    """
    if contract.temporal_scale is not None:
        raise InvalidPicture(f"VAE {vae!r} makes videos; expected a VAE for pictures: videos are not encoded yet")
    if contract.picture_channels != 3:
        raise InvalidPicture(f"VAE {vae!r} takes pictures in RGBA; expected a VAE for RGB: no other is encoded for yet")
    check_pixels(height, width, contract.max_pixels)
    if count > contract.max_count:
        raise InvalidPicture(
            f"{count} images were given; VAE {vae!r} takes at most {contract.max_count} in one job: encode them in"
            " several"
        )
    scale = contract.spatial_scale
    # A pipeline could not make blocks of an odd number of latents.
    side = scale if PATCHED.isdisjoint(contract.layouts) else 2 * scale
    if height % side or width % side:
        raise InvalidPicture(
            f"the picture is {width} x {height} pixels; VAE {vae!r} takes multiples of {side}: resize or crop it, the"
            f" nearest widths are {_nearest(width, side)}, the nearest heights {_nearest(height, side)}"
        )
    return count, contract.latent_channels, height // scale, width // scale


def _nearest(size: int, side: int) -> str:
    below = size // side * side
    return f"{below + side}" if not below else f"{below}" if size == below else f"{below} and {below + side}"


def tensor_bytes(spec: JobSpec) -> int:
    """Bytes of the image tensor that an encode's spec tells of."""
    return spec.pixels * 3 * int(np.dtype(IMAGE_STORAGE[spec.dtype]).itemsize)


def unpack(data: bytes, spec: JobSpec) -> Images:
    """Read an encode's blob: a picture's file, or a tensor as `latents.pack` wrote it.

    Raises:
        InvalidPicture: it is neither, or not what the spec tells of.
    """
    if spec.from_file:
        images = Images(open_picture(data, spec.height * spec.width)[None], "uint8")
    else:
        try:
            images = Images(*read_tensor(data, IMAGE_STORAGE))
        except InvalidLatents as error:
            raise InvalidPicture(f"the image tensor cannot be read: {error}") from error
    height, width = spec.height, spec.width
    shape = (spec.count, height, width, 3) if spec.dtype == "uint8" else (spec.count, 3, height, width)
    if (images.shape, images.dtype) != (shape, spec.dtype):
        raise InvalidPicture(f"the image tensor is {images.dtype} {images.shape}; its job says {spec.dtype} {shape}")
    return images
