"""Mean and variance of each channel of a map that is seen strip by strip, and what they make of a GroupNorm."""

from typing import Final

import torch
from torch import nn

#: Dimensions of (1, channels, rows, width) over which a channel's values lie.
_WITHIN: Final = (0, 2, 3)


class Moments:
    """Count, mean and sum of squared deviations by channel, in float32, merged by Chan's formula.

    Merged so, the variance between strips counts as well, and no large sum of squares cancels another.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._count = 0
        self._mean: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None

    def add(self, rows: torch.Tensor) -> None:
        """Count (1, channels, rows, width) in."""
        count = rows.shape[2] * rows.shape[3]
        if count == 0:
            return
        mean, squares = _of(rows.float())
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = count, mean, squares
            return
        total = self._count + count
        delta = mean - self._mean
        self._squares += squares + delta.square() * (self._count * count / total)
        self._mean += delta * (count / total)
        self._count = total

    def folded(self, norm: nn.GroupNorm) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift of each channel, (1, channels, 1, 1) in float32, that `norm` comes to on what was seen."""
        assert self._mean is not None, "a map has at least one row"
        assert self._squares is not None
        means = self._mean.view(norm.num_groups, -1)
        mean = means.mean(1, keepdim=True)
        deviations = (self._squares / self._count).view(norm.num_groups, -1) + (means - mean).square()
        scale = (deviations.mean(1, keepdim=True) + norm.eps).rsqrt().expand_as(means).reshape(-1)
        shift = -mean.expand_as(means).reshape(-1) * scale
        if norm.affine:
            scale, shift = scale * norm.weight.float(), shift * norm.weight.float() + norm.bias.float()
        return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)


def _of(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and sum of squared deviations of each channel of (1, channels, rows, width) float32."""
    if rows.device.type == "cpu":
        # var_mean is ten times slower there.
        mean = rows.mean(_WITHIN, keepdim=True)
        return mean.flatten(), (rows - mean).square_().sum(_WITHIN)
    variance, mean = torch.var_mean(rows, _WITHIN, correction=0)
    return mean, variance * (rows.shape[2] * rows.shape[3])
