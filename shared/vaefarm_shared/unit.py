"""From a raw tensor, as a decode with output_type='pt' gives it, to what a picture holds: without torch.

The steps of diffusers' VaeImageProcessor in float16, in which a tensor comes. Of a VAE that decodes in float16 they
give, bit for bit, the pixels of output_type='pil'; those of one in another dtype were made before the cast to float16.
"""

from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .errors import InvalidInput

#: The two numbers of VaeImageProcessor.denormalize.
HALF: Final = np.float16(0.5)


def to_unit(tensor: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Float16 of any shape in about [-1, 1] -> the same shape in [0, 1]: `(x * 0.5 + 0.5)`, clamped, in float16.

    Raises:
        InvalidInput: it is no float16.
    """
    if tensor.dtype != np.float16:
        raise InvalidInput(f"the tensor has dtype {tensor.dtype}; expected float16, as a raw output has")
    with np.errstate(invalid="ignore"):
        unit: npt.NDArray[np.float16] = np.clip(tensor * HALF + HALF, 0, 1)
    return unit


def to_pixels(tensor: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Float16 (n, c, height, width) in about [-1, 1] -> (n, height, width, c) uint8. NaN becomes 0.

    Raises:
        InvalidInput: it is no float16, or has another rank.
    """
    if tensor.dtype != np.float16 or tensor.ndim != 4:
        raise InvalidInput(
            f"the tensor has dtype {tensor.dtype} and shape {tensor.shape}; expected float16 (n, c, height, width)"
        )
    words = tensor.view(np.uint16)
    pixels: npt.NDArray[np.uint8] = _pixel_of_words()[np.ascontiguousarray(words.transpose(0, 2, 3, 1))]
    return pixels


@cache
def _pixel_of_words() -> npt.NDArray[np.uint8]:
    """The pixel of each of the 65536 float16: NumPy's own arithmetic of them takes five times as long as a look."""
    unit = to_unit(np.arange(2**16, dtype=np.uint16).view(np.float16)).astype(np.float32)
    pixels: npt.NDArray[np.uint8] = np.rint(np.nan_to_num(unit) * np.float32(255)).astype(np.uint8)
    return pixels
