"""An AutoencoderTiny's decode, exactly, in strips of rows: without norms, each strip goes through all layers."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import nn

from .convolution import RowConvolution

#: Strips of a picture.
_PARTS: Final[int] = 32


class Stage(Protocol):
    """A layer that is given strips of rows in their order."""

    def push(self, rows: torch.Tensor, is_last: bool) -> torch.Tensor:
        """The rows of the output that can be told now."""
        ...


class Pointwise:
    """A layer whose every output row needs one row: an activation, an up-sampling by a whole number."""

    def __init__(self, layer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """`layer`: what is done to each strip."""
        self._layer = layer

    def push(self, rows: torch.Tensor, is_last: bool) -> torch.Tensor:
        """As many rows as the layer makes of these."""
        return self._layer(rows)


class Chain:
    """Stages one behind the other."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """`layers`: of the kinds that `stage` knows."""
        self._stages = [stage(layer) for layer in layers]

    def push(self, rows: torch.Tensor, is_last: bool) -> torch.Tensor:
        """Through all of them."""
        for each in self._stages:
            if not rows.shape[2]:
                # The last strip gives rows of every stage, so that none misses that it is the last.
                break
            rows = each.push(rows, is_last)
        return rows


class Residual:
    """A block's convolutions, and beside them the rows that wait to be added."""

    def __init__(self, block: Any) -> None:
        """`block`: an AutoencoderTinyBlock."""
        self._convolutions = Chain(list(block.conv))
        self._skip, self._fuse = block.skip, block.fuse
        self._waiting: torch.Tensor | None = None

    def push(self, rows: torch.Tensor, is_last: bool) -> torch.Tensor:
        """Those that the convolutions give, with theirs added."""
        waiting = rows if self._waiting is None else torch.cat([self._waiting, rows], 2)
        made = self._convolutions.push(rows, is_last)
        count = made.shape[2]
        self._waiting = waiting[:, :, count:].clone()
        return self._fuse(made + self._skip(waiting[:, :, :count])) if count else made


def stage(layer: nn.Module) -> Stage:
    """What does a layer's work row by row."""
    if isinstance(layer, nn.Conv2d):
        return RowConvolution(layer)
    if isinstance(layer, AutoencoderTinyBlock):
        return Residual(layer)
    return Pointwise(layer)


def tiny_picture(vae: Any, latent: torch.Tensor, strip: int | None) -> torch.Tensor:
    """(1, c, h, w) -> (1, 3, height, width). `strip`: rows of latents at a time."""
    chain, height = Chain(list(vae.decoder.layers)), latent.shape[2]
    strip = strip or -(-height // _PARTS)
    parts = []
    for first in range(0, height, strip):
        rows = torch.tanh(latent[:, :, first : first + strip] / 3) * 3
        made = chain.push(rows, first + strip >= height)
        if made.shape[2]:
            parts.append(made.mul(2).sub(1))
    return torch.cat(parts, 2).contiguous()
