"""Residual blocks that write over what nobody reads again: the same bits with fewer maps held and moved.

diffusers' block makes a new map for each activation and for the sum, and divides that by one.
"""

from typing import Any

import torch
from diffusers.models.autoencoders.vae import Decoder, DecoderTiny
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from .parts import replace_parts


class LeanResnet(nn.Module):
    """(n, c, h, w) -> (n, c', h, w): the parts of a ResnetBlock2D, which are shared with it."""

    def __init__(self, plain: Any) -> None:
        """`plain`: a block that `make_lean` knows."""
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = plain.norm1, plain.conv1, plain.norm2, plain.conv2
        self.conv_shortcut = plain.conv_shortcut

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        """Raises TypeError for an embedding of time, of which decoders have none."""
        if temb is not None:
            raise TypeError("a decoder's block got an embedding of time; expected none")
        hidden = self.conv1(nn.functional.silu(self.norm1(input_tensor), inplace=True))
        hidden = self.conv2(nn.functional.silu(self.norm2(hidden), inplace=True))
        made: torch.Tensor = hidden.add_(
            input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        )
        return made


def make_lean(module: nn.Module) -> bool:
    """Replace every residual block in a module's parts that it knows; whether anything became leaner."""
    found = replace_parts(module, lambda part: type(part) is ResnetBlock2D and _is_known(part), LeanResnet)
    return _write_over(module) or found


def _write_over(module: nn.Module) -> bool:
    """Activations behind a layer that made a map for them alone, in the decoders that are known."""
    found: list[Any] = []
    if type(module) is Decoder:
        found = [module.conv_act]
    elif type(module) is DecoderTiny:
        # Each stands behind a convolution or a sum.
        found = list(module.modules())
    activations = [one for one in found if type(one) in (nn.SiLU, nn.ReLU)]
    for one in activations:
        one.inplace = True
    return bool(activations)


def _is_known(block: Any) -> bool:
    return (
        block.time_emb_proj is None
        # What a group norm's block says of it: "default" where it is made alone, "group" in a decoder.
        and block.time_embedding_norm in ("default", "group")
        and block.upsample is None
        and block.downsample is None
        and type(block.norm1) is type(block.norm2) is nn.GroupNorm
        and type(block.nonlinearity) is nn.SiLU
        and block.dropout.p == 0
        and block.output_scale_factor == 1
    )
