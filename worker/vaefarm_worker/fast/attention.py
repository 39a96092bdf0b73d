"""Attention of a single head with the projections of its values and of its output folded into one.

The weights of a head add up to one for each position, so the second projection may as well be applied to what they
weigh: its product with the first is a matrix of the same size, and a bias goes through unchanged.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from .parts import replace_parts


class FoldedAttention(nn.Module):
    """(n, c, h, w) -> the same: a map's attention to itself, and itself added where the original adds it."""

    def __init__(self, plain: Any) -> None:
        """`plain`: an Attention of diffusers that `fold_attention` knows, whose other parts are shared."""
        super().__init__()
        self.group_norm = plain.group_norm
        self.to_q = plain.to_q
        self.to_k = plain.to_k
        self.to_v = _folded(plain.to_v, plain.to_out[0])
        self.residual_connection = plain.residual_connection

    def forward(self, hidden_states: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        """`temb` has no part in it, as in the original without a spatial norm."""
        batch, channels, height, width = hidden_states.shape
        tokens = hidden_states.flatten(2)
        if self.group_norm is not None:
            tokens = self.group_norm(tokens)
        tokens = tokens.transpose(1, 2)
        parts = [project(tokens).unsqueeze(1) for project in (self.to_q, self.to_k, self.to_v)]
        attended = nn.functional.scaled_dot_product_attention(*parts).squeeze(1)
        image = attended.transpose(1, 2).reshape(batch, channels, height, width)
        return image + hidden_states if self.residual_connection else image


def fold_attention(module: nn.Module) -> bool:
    """Replace every attention of a single head in a module's parts; whether there was any."""
    return replace_parts(module, lambda part: type(part) is Attention and _is_known(part), FoldedAttention)


def _is_known(block: Any) -> bool:
    norms = ("spatial_norm", "norm_cross", "norm_q", "norm_k", "add_k_proj")
    return (
        type(block.processor) is AttnProcessor2_0
        and block.heads == 1
        and block.rescale_output_factor == 1
        and not any(getattr(block, name, None) for name in norms)
        and block.out_dim == block.query_dim
        and all(type(one) is nn.Linear for one in (block.to_q, block.to_k, block.to_v, block.to_out[0]))
        and block.to_out[1].p == 0
    )


def _folded(values: nn.Linear, output: nn.Linear) -> nn.Linear:
    """The product of two projections, made in float32."""
    made = nn.Linear(values.in_features, output.out_features, bias=False, device="meta")
    dtype, outer = values.weight.dtype, output.weight.detach().float()
    made.weight = nn.Parameter((outer @ values.weight.detach().float()).to(dtype))
    biases = [] if values.bias is None else [outer @ values.bias.detach().float()]
    if output.bias is not None:
        biases.append(output.bias.detach().float())
    if biases:
        made.bias = nn.Parameter(torch.stack(biases).sum(0).to(dtype))
    return made.eval()
