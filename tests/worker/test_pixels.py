"""The picture of a binned family has the size that was asked for, and the pixels of diffusers' own steps."""

import pytest
import torch
from diffusers.image_processor import PixArtImageProcessor

from vaefarm_worker.pixels import fit


@pytest.mark.parametrize("size", [(200, 256), (256, 200), (512, 512), (96, 64), (300, 517)])
def test_the_steps_are_diffusers_own(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))

    expected = PixArtImageProcessor.resize_and_crop_tensor(images, size[1], size[0])

    assert torch.equal(fit(images, *size), expected)


@pytest.mark.parametrize(
    ("decoded", "size"), [((1248, 832), (1000, 640)), ((768, 1344), (264, 472)), ((1568, 448), (1, 1))]
)
def test_where_diffusers_ends_a_pixel_short_the_picture_has_its_size(
    decoded: tuple[int, int], size: tuple[int, int]
) -> None:
    assert fit(torch.zeros(1, 3, *decoded), *size).shape[2:] == size


def test_diffusers_own_is_short_there() -> None:
    short = [
        (height, width)
        for height in range(200, 300)
        for width in (472, 480)
        if min(PixArtImageProcessor.resize_and_crop_tensor(torch.zeros(1, 1, 768, 1344), width, height).shape[2:]) < 2
    ]
    assert short
    assert all(fit(torch.zeros(1, 1, 768, 1344), *size).shape[2:] == size for size in short)
