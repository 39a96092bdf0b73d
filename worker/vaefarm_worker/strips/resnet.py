"""A resnet of an AutoencoderKL's decoder, strip by strip."""

from collections.abc import Iterator
from typing import Any

import torch

from .convolution import Normed, RowConvolution
from .maps import FeatureMap, Stored, empty_rows, in_strips
from .moments import Moments


def resnet(block: Any, source: FeatureMap, strip: int, recompute: bool) -> Stored:
    """What a ResnetBlock2D makes of a map, written over the map itself where that is stored and has no shortcut.

    Args:
        strip: Rows of a strip.
        recompute: Compute what lies between the two convolutions twice rather than store it, where that saves a map.
    """
    _, height, width = source.shape
    is_in_place = isinstance(source, Stored) and block.conv_shortcut is None

    def inner() -> Iterator[tuple[int, torch.Tensor]]:
        first = RowConvolution(block.conv1, Normed(block.norm1, source.moments))
        return first.over(in_strips(source, strip), height)

    if is_in_place and recompute:
        moments = Moments()
        for _, rows in inner():
            moments.add(rows)
        between, hidden = inner(), None
    else:
        hidden = Stored(empty_rows(block.conv1.out_channels, height, width, block.conv1.weight))
        for at, rows in inner():
            hidden.write(at, rows)
        between, moments = in_strips(hidden, strip), hidden.moments
    # Whatever is written over was read before: a convolution's rows come behind those that it was given.
    if is_in_place:
        made = Stored(source.tensor)  # type: ignore[attr-defined]
    elif hidden is not None and hidden.shape[0] == block.conv2.out_channels:
        made = Stored(hidden.tensor)
    else:
        made = Stored(empty_rows(block.conv2.out_channels, height, width, block.conv1.weight))
    for at, rows in RowConvolution(block.conv2, Normed(block.norm2, moments)).over(between, height):
        shortcut = source.rows(at, at + rows.shape[2])
        if block.conv_shortcut is not None:
            shortcut = block.conv_shortcut(shortcut)
        rows += shortcut
        if block.output_scale_factor != 1:
            rows /= block.output_scale_factor
        made.write(at, rows)
    return made
