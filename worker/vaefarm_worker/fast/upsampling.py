"""Up-sampling to twice the size and the 3x3 convolution behind it, as one transposed convolution (`folded_kernel`).

The up-sampled map is never stored. Sums are added in another order; at the border as well, where both see zeros.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from diffusers.models.upsampling import Upsample2D
from torch import nn

from ..folded_kernel import folded_kernel


def fold_upsampling(module: nn.Module) -> bool:
    """Replace every up-sampling with its convolution in a module's parts; whether there was any."""
    found = [*_upsamplers(module), *_pairs(module)]
    for parent, names, conv in found:
        *before, last = names
        for name in before:
            setattr(parent, name, nn.Identity())
        setattr(parent, last, _transposed(conv))
    return bool(found)


def _upsamplers(module: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...], Any]]:
    """diffusers' Upsample2D: parent, name in it, convolution."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is Upsample2D and _is_plain(child):
                yield parent, (name,), child.conv


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...], Any]]:
    """torch's Upsample with a convolution behind it, in a sequence: the sequence, both names, convolution."""
    for parent in module.modules():
        if type(parent) is nn.Sequential:
            for (before, first), (name, second) in pairwise(parent.named_children()):
                if _doubles(first) and _is_convolution(second):
                    yield parent, (before, name), second


def _is_plain(block: Any) -> bool:
    plain = block.use_conv and block.interpolate and not block.use_conv_transpose and block.norm is None
    return plain and _is_convolution(getattr(block, "conv", None))


def _doubles(block: nn.Module) -> bool:
    if type(block) is not nn.Upsample or block.mode != "nearest" or block.size is not None:
        return False
    factors = block.scale_factor if isinstance(block.scale_factor, tuple) else (block.scale_factor,)
    return all(factor == 2 for factor in factors)


def _is_convolution(block: object) -> bool:
    return (
        type(block) is nn.Conv2d
        and block.kernel_size == (3, 3)
        and block.padding == (1, 1)
        and block.padding_mode == "zeros"
        and block.stride == block.dilation == (1, 1)
        and block.groups == 1
    )


def _transposed(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    """(n, c, h, w) -> (n, c', 2h, 2w)."""
    made = nn.ConvTranspose2d(
        *(conv.in_channels, conv.out_channels, 4),
        stride=2,
        padding=1,
        bias=False,
        device="meta",
    )
    made.weight = nn.Parameter(folded_kernel(conv.weight.detach()))
    made.bias = conv.bias
    return made.eval()
