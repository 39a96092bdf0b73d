"""The attention of an AutoencoderKL's middle block: each query sees the whole map, a chunk of queries at a time."""

from typing import Any, Final

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend

from .convolution import Normed
from .maps import Stored, empty_rows

#: Fewest queries of a chunk.
_MIN_QUERIES: Final[int] = 16


def attention(block: Any, source: Stored, max_scores: int) -> Stored:
    """What an Attention makes of a map, written over the map itself.

    Args:
        max_scores: Elements of a matrix of scores, where the device knows no attention that does without it.
    """
    channels, height, width = source.shape
    normed = empty_rows(channels, height, width, source.tensor)
    Normed(block.group_norm, source.moments, is_activated=False)(source.tensor, normed)
    tokens, made = _tokens(normed), _tokens(source.tensor)
    keys, values = _heads(block, block.to_k(tokens)), _heads(block, block.to_v(tokens))
    size = _queries(keys, values, max_scores)
    for first in range(0, tokens.shape[1], size):
        queries = _heads(block, block.to_q(tokens[:, first : first + size]))
        seen = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        part = made[:, first : first + size]
        if block.residual_connection:
            part += block.to_out[0](seen)
        else:
            part.copy_(block.to_out[0](seen))
        if block.rescale_output_factor != 1:
            part /= block.rescale_output_factor
    rewritten = Stored(source.tensor)
    rewritten.moments.add(source.tensor)
    return rewritten


def _tokens(rows: torch.Tensor) -> torch.Tensor:
    """(1, channels, height, width) -> (1, height * width, channels), a view."""
    return rows.permute(0, 2, 3, 1).view(1, -1, rows.shape[1])


def _heads(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """(1, tokens, channels) -> (1, heads, tokens, channels of each)."""
    return tokens.view(1, tokens.shape[1], block.heads, -1).transpose(1, 2)


def _queries(keys: torch.Tensor, values: torch.Tensor, max_scores: int) -> int:
    """How many queries are asked at a time."""
    count = keys.shape[2]
    if torch._fused_sdp_choice(keys, keys, values) != SDPBackend.MATH.value:
        return count
    return max(_MIN_QUERIES, max_scores // (count * keys.shape[1]))
