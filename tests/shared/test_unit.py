"""What NumPy makes of a raw tensor is what diffusers makes of it, for each number that float16 has."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from vaefarm_shared.errors import InvalidInput
from vaefarm_shared.unit import to_pixels, to_unit
from vaefarm_worker import pixels

#: Every float16 that is a number, infinities too, as (2, 3, 64, n).
ALL = np.arange(2**16, dtype=np.uint16).view(np.float16)
TENSOR = np.resize(ALL[~np.isnan(ALL)], (2, 3, 64, 166))


def test_every_float16_is_among_them() -> None:
    assert len(set(TENSOR.view(np.uint16).ravel().tolist())) == (~np.isnan(ALL)).sum() == 63490


def test_the_unit_is_torchs_bit_for_bit() -> None:
    images = torch.from_numpy(TENSOR)

    unit = to_unit(TENSOR)

    assert np.array_equal(unit.view(np.uint16), (images * 0.5 + 0.5).clamp(0, 1).numpy().view(np.uint16))
    assert (unit.dtype.name, unit.shape) == ("float16", TENSOR.shape)


def test_the_pixels_are_the_workers_and_the_image_processors() -> None:
    made = to_pixels(TENSOR)

    assert np.array_equal(made, pixels.to_pixels(torch.from_numpy(TENSOR)))
    pictures = VaeImageProcessor().postprocess(torch.from_numpy(TENSOR), output_type="pil")
    assert np.array_equal(made, np.stack([np.asarray(picture) for picture in pictures]))
    assert made.flags["C_CONTIGUOUS"]


def test_strides_change_nothing() -> None:
    assert np.array_equal(to_pixels(np.asfortranarray(TENSOR)), to_pixels(TENSOR))
    assert np.array_equal(to_pixels(TENSOR[:, ::-1, 1:]), to_pixels(TENSOR)[:, 1:, :, ::-1])


def test_nan_is_black_as_in_torch() -> None:
    tensor = np.resize(ALL[np.isnan(ALL)], (1, 3, 31, 22))

    assert not to_pixels(tensor).any()
    assert not pixels.to_pixels(torch.from_numpy(tensor)).any()


@pytest.mark.parametrize(
    "tensor", [TENSOR.astype(np.float32), TENSOR[0], TENSOR.view(np.uint16)], ids=["float32", "rank", "uint16"]
)
def test_another_tensor_is_refused_by_its_dtype_and_shape(tensor: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match=rf"dtype {tensor.dtype} and shape .*expected float16 \(n, c, height, width"):
        to_pixels(tensor)
    if tensor.dtype != np.float16:
        with pytest.raises(InvalidInput, match="expected float16"):
            to_unit(tensor)
