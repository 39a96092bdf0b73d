"""Convolutions, and what is done to their input, over rows that come strip by strip."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from .maps import empty_rows
from .moments import Moments

#: Strips of rows, each with the index of its first row; and the height of the map that they are of.
Strips = Iterable[tuple[int, torch.Tensor]]


class Preparation(Protocol):
    """What is done to rows before a convolution sees them."""

    def __call__(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Write to `out`, of the same shape, what becomes of `rows`."""
        ...


def copied(rows: torch.Tensor, out: torch.Tensor) -> None:
    """Nothing is done to them."""
    out.copy_(rows)


class Normed:
    """GroupNorm by the moments of the whole map, and SiLU unless it is not wanted."""

    def __init__(self, norm: nn.GroupNorm, moments: Moments, is_activated: bool = True) -> None:
        """Fold norm and moments to one scale and shift for each channel."""
        self._scale, self._shift = moments.folded(norm)
        self._is_activated = is_activated

    def __call__(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """In float32, whatever the rows' dtype, and rounded once: that makes up for what folded weights lose."""
        wide = torch.addcmul(self._shift, rows, self._scale, out=out if out.dtype == self._scale.dtype else None)
        if self._is_activated:
            functional.silu(wide, inplace=True)
        if wide is not out:
            out.copy_(wide)


class RowConvolution:
    """A 3x3 convolution that is given strips of rows in their order, and keeps the two rows that the next one needs."""

    def __init__(self, conv: nn.Conv2d, prepare: Preparation = copied) -> None:
        """`prepare`: what is done to the rows first; the zeros around the map come after it."""
        self._prepare = prepare
        self._weight = conv.weight.contiguous(memory_format=torch.channels_last)
        self._bias = conv.bias
        self._kept: torch.Tensor | None = None

    def push(self, rows: torch.Tensor, is_last: bool) -> torch.Tensor:
        """The rows of the output that can be told now: one less than went in, until the last strip.

        Args:
            rows: (1, channels, rows, width), the next ones.
            is_last: No more follow.
        """
        _, channels, count, width = rows.shape
        above = 1 if self._kept is None else self._kept.shape[2]
        window = empty_rows(channels, above + count + is_last, width, rows)
        if self._kept is None:
            window[:, :, :1].zero_()
        else:
            window[:, :, :above].copy_(self._kept)
        self._prepare(rows, window[:, :, above : above + count])
        if is_last:
            window[:, :, -1:].zero_()
        self._kept = window[:, :, -2:].clone()
        if window.shape[2] < 3:
            return empty_rows(self._weight.shape[0], 0, width, rows)
        return functional.conv2d(window, self._weight, self._bias, padding=(0, 1))

    def over(self, strips: Strips, height: int) -> Iterator[tuple[int, torch.Tensor]]:
        """The output's rows, strip by strip, for those of a map of `height` rows."""
        first = 0
        for start, rows in strips:
            made = self.push(rows, start + rows.shape[2] == height)
            # Held no longer than the strip that is made of them.
            del rows
            if made.shape[2]:
                yield first, made
                first += made.shape[2]
