"""Feature maps of which rows are asked: one that is stored, and an up-sampled one that is computed when asked for."""

from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from ..folded_kernel import folded_kernel
from .moments import Moments


class FeatureMap(Protocol):
    """(1, channels, height, width), of which rows are asked."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        ...

    @property
    def moments(self) -> Moments:
        """Those of the whole map."""
        ...

    def rows(self, first: int, end: int) -> torch.Tensor:
        """Rows from `first` up to, not including, `end`; to be read only."""
        ...


def empty_rows(channels: int, height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """(1, channels, height, width) whose channels lie side by side, so that each strip of rows is one block."""
    return like.new_empty((1, height, width, channels)).permute(0, 3, 1, 2)


class Stored:
    """A map in memory. Written from the first row to the last."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """`tensor`: (1, channels, height, width), to be written, whatever it holds now."""
        self.tensor = tensor
        self._moments = Moments()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.tensor.shape
        return channels, height, width

    @property
    def moments(self) -> Moments:
        """Those of what was written."""
        return self._moments

    def rows(self, first: int, end: int) -> torch.Tensor:
        """A view."""
        return self.tensor[:, :, first:end]

    def write(self, first: int, rows: torch.Tensor) -> None:
        """Write rows to where `first` is the first of them."""
        self.tensor[:, :, first : first + rows.shape[2]].copy_(rows)
        self._moments.add(rows)


class Upsampled:
    """Nearest-neighbour up-sampling of a stored map and the 3x3 convolution behind it, as one transposed convolution.

    Each output pixel sees only four different ones below, so that the nine taps add up to four: 4/9 of the work.
    """

    def __init__(self, below: Stored, conv: nn.Conv2d, strip: int) -> None:
        """`strip`: rows of a strip in which the whole map is computed."""
        self._below = below
        self._strip = strip
        self._weight = folded_kernel(conv.weight, torch.channels_last)
        self._bias = conv.bias

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, height, width = self._below.shape
        return self._weight.shape[1], 2 * height, 2 * width

    @cached_property
    def moments(self) -> Moments:
        """Those of the whole map; a pass over it."""
        moments = Moments()
        for _, rows in in_strips(self, self._strip):
            moments.add(rows)
        return moments

    def rows(self, first: int, end: int) -> torch.Tensor:
        """Computed."""
        height = self._below.shape[1]
        # With a row on either side, of which the outermost are zeros.
        above, under = first // 2 - 1, (end + 1) // 2 + 1
        seen = self._below.rows(max(above, 0), min(under, height))
        if above < 0 or under > height:
            seen = functional.pad(seen, (0, 0, max(-above, 0), max(under - height, 0)))
        # Padding of 3 leaves out what the rows on either side would give by themselves.
        made = functional.conv_transpose2d(seen, self._weight, self._bias, stride=2, padding=(3, 1))
        skipped = first - 2 * (above + 1)
        return made[:, :, skipped : skipped + end - first]

    def stored(self) -> Stored:
        """The whole map."""
        channels, height, width = self.shape
        made = Stored(empty_rows(channels, height, width, self._below.tensor))
        for first, rows in in_strips(self, self._strip):
            made.write(first, rows)
        return made


def in_strips(source: FeatureMap, strip: int) -> Iterator[tuple[int, torch.Tensor]]:
    """A map's rows from the first to the last, `strip` at a time, each time with the index of the first of them."""
    height = source.shape[1]
    for first in range(0, height, strip):
        yield first, source.rows(first, min(first + strip, height))
