"""GroupNorm of large maps whose channels lie last in memory, as exact as that of maps whose channels lie first.

A CPU's kernel for this layout adds up a channel's values one behind the other in float32: at 2048 x 2048 pixels its
result is off by a hundredth, at 1024 x 1024 by a five-hundredth. Here sums of rows are added up in float64.
"""

from typing import Final

import torch
from torch import nn

from .parts import replace_parts

#: Pixels of a map up to which torch's kernel is exact enough, and the faster one.
SMALL: Final[int] = 256 * 256

#: Elements of the rows that are worked on at a time: what they need besides stays in a processor's cache.
ROWS: Final[int] = 2**16


class ExactNorm(nn.Module):
    """(n, c, h, w) -> the same: a GroupNorm, whose weights it shares."""

    def __init__(self, plain: nn.GroupNorm) -> None:
        """`plain`: with weights."""
        super().__init__()
        self.groups, self.eps = plain.num_groups, plain.eps
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """In float32 inside, whatever the dtype."""
        if given.device.type != "cpu" or given.dim() != 4 or given.shape[2] * given.shape[3] <= SMALL:
            return nn.functional.group_norm(given, self.groups, self.weight, self.bias, self.eps)
        scale, shift = self._affine(given)
        made = torch.empty_like(given)
        for rows, into in zip(_parts(given), _parts(made), strict=True):
            into.copy_(torch.addcmul(shift, rows.float(), scale))
        return made

    def _affine(self, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What each channel's values are multiplied with, and what is added: (n, c, 1, 1), float32."""
        count, channels, height, width = given.shape
        sums = torch.zeros(2, count, channels, dtype=torch.float64, device=given.device)
        for rows in _parts(given):
            wide = rows.float()
            sums[0] += wide.sum((2, 3))
            sums[1] += wide.square().sum((2, 3))
        grouped = sums.view(2, count, self.groups, -1).sum(3) / (channels // self.groups * height * width)
        mean = grouped[0]
        deviation = (grouped[1] - mean.square()).clamp(min=0)
        factor = torch.rsqrt(deviation + self.eps)
        each = channels // self.groups
        scale = factor.repeat_interleave(each, 1) * self.weight.double()
        shift = self.bias.double() - mean.repeat_interleave(each, 1) * scale
        return scale.float()[..., None, None], shift.float()[..., None, None]


def make_norms_exact(module: nn.Module) -> None:
    """Replace every GroupNorm in a module's parts."""
    replace_parts(module, lambda part: type(part) is nn.GroupNorm and part.affine, ExactNorm)


def _parts(maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Maps in strips of rows."""
    return torch.split(maps, max(1, ROWS // (maps.shape[0] * maps.shape[1] * maps.shape[3])), dim=2)
