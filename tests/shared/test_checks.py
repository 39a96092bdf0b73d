"""Latents against contracts: each refusal names what was wrong and what was expected."""

from typing import Any

import pytest

from vaefarm_shared.catalogue import Catalogue, Contract
from vaefarm_shared.checks import Pictures, check_bytes, check_shape
from vaefarm_shared.errors import InvalidLatents

SDXL = Contract(latent_channels=4, spatial_scale=8)
FLUX = Contract(latent_channels=16, spatial_scale=8, layouts=("spatial", "packed"))


@pytest.mark.parametrize(
    ("contract", "shape", "size", "expected"),
    [
        (SDXL, (1, 4, 128, 96), (None, None), Pictures("spatial", 1, 1024, 768)),
        (SDXL, (3, 4, 2, 2), (16, 16), Pictures("spatial", 3, 16, 16)),
        (FLUX, (1, 16, 128, 128), (None, None), Pictures("spatial", 1, 1024, 1024)),
        (FLUX, (1, 4096, 64), (1024, 1024), Pictures("packed", 1, 1024, 1024)),
        (FLUX, (2, 62 * 64, 64), (1000, 1024), Pictures("packed", 2, 992, 1024)),
    ],
)
def test_what_a_pipeline_returns_is_taken(
    contract: Contract, shape: tuple[int, ...], size: tuple[int | None, int | None], expected: Pictures
) -> None:
    assert expected == check_shape("x", contract, shape, *size)


@pytest.mark.parametrize(
    ("contract", "shape", "size", "named"),
    [
        (SDXL, (1, 16, 128, 128), (None, None), "16 channels.*expects 4"),
        (SDXL, (4, 128, 128), (None, None), r"rank 3.*expected \(n, 4, height/8, width/8\)"),
        (SDXL, (1, 1, 4, 128, 128), (None, None), "rank 5"),
        (SDXL, (), (None, None), "rank 0"),
        (SDXL, (1, 4, 0, 128), (None, None), "no empty dimension"),
        (SDXL, (0, 4, 8, 8), (None, None), "no empty dimension"),
        (SDXL, (1, 4, 100_000, 100_000), (None, None), "at most 16777216"),
        (SDXL, (65, 4, 8, 8), (None, None), "65 pictures.*at most 64"),
        (SDXL, (1, 4, 128, 128), (512, 1024), "decode to height 1024"),
        (FLUX, (1, 4096, 64), (None, None), "need height and width"),
        (FLUX, (1, 4096, 64), (1024, None), "need height and width"),
        (FLUX, (1, 4095, 64), (1024, 1024), r"4095 tokens.*64 x 64 = 4096"),
        (FLUX, (1, 4096, 32), (1024, 1024), "32 features a token.*expects 64"),
        (FLUX, (1, 4096, 64), (-1024, -1024), "height is -1024"),
        (FLUX, (1, 4096, 64), (1024.0, 1024), "height is 1024.0"),
        (FLUX, (1, 4096, 64), (True, 1024), "height is True"),
        (FLUX, (1, 4, 64), (8, 8), "4 tokens"),
    ],
)
def test_what_no_decode_can_take_is_refused(
    contract: Contract, shape: tuple[int, ...], size: tuple[Any, Any], named: str
) -> None:
    with pytest.raises(InvalidLatents, match=named):
        check_shape("x", contract, shape, *size)


def test_a_tensor_too_large_for_the_queue_is_refused() -> None:
    with pytest.raises(InvalidLatents, match="at most 268435456"):
        check_bytes((64, 16, 512, 512), 4)


def test_every_entry_of_the_built_in_catalogue_carries_its_contract() -> None:
    entries = list(Catalogue.load())

    assert {"demo", "sd-v1", "sdxl", "flux", "taesd"} <= {entry.id for entry in entries}
    assert all(entry.contract is not None for entry in entries)
