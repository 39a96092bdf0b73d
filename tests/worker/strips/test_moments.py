"""Moments that are merged strip by strip are those of the whole map."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.worker.items import randn
from torch import nn

from vaefarm_worker.strips.moments import Moments


@given(
    heights=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    groups=st.sampled_from([1, 3, 6]),
    affine=st.booleans(),
)
def test_scale_and_shift_are_those_of_a_group_norm_over_the_whole_map(
    heights: list[int], groups: int, affine: bool
) -> None:
    norm = nn.GroupNorm(groups, 6, affine=affine, dtype=torch.float64)
    if affine:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    rows = 3 * randn(1, 6, sum(heights), 5) + randn(1, 6, 1, 1, seed=1)
    moments = Moments()

    for strip in rows.split(heights, 2):
        moments.add(strip)

    scale, shift = moments.folded(norm)
    torch.testing.assert_close(rows * scale + shift, norm(rows.double()).float(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_strips_whose_means_lie_apart_count_with_their_distance(offset: float) -> None:
    rows = torch.cat([torch.full((1, 2, 1, 50), offset - 1.0), torch.full((1, 2, 1, 50), offset + 1.0)], 2)
    moments = Moments()

    for strip in rows.split(1, 2):
        moments.add(strip)

    scale, _ = moments.folded(nn.GroupNorm(1, 2, affine=False))
    torch.testing.assert_close(scale.flatten(), torch.ones(2), atol=1e-4, rtol=0)
