"""The kernel of an up-sampling by two and the 3x3 convolution behind it, as one transposed convolution.

Each value of an up-sampled map stands there four times, so of the nine products that a convolution makes of them some
have the same factor: four sums of taps do for each output value.
"""

from typing import Final

import torch

#: Which of a 3-tap kernel each tap of the 4-tap kernel sums up, along one axis.
_TAPS: Final[tuple[tuple[int, ...], ...]] = ((2,), (1, 2), (0, 1), (0,))


def folded_kernel(weight: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    """(out, in, 3, 3) -> (in, out, 4, 4) for a stride of 2, summed in float32."""
    wide = weight.float()
    rows = torch.stack([wide[:, :, taps].sum(2) for taps in _TAPS], dim=2)
    both = torch.stack([rows[..., taps].sum(3) for taps in _TAPS], dim=3)
    return both.transpose(0, 1).to(weight.dtype).contiguous(memory_format=memory_format)
