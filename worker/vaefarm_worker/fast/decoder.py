"""A VAE's fast decoder: a second module beside the plain one, with which it shares all weights that are not folded."""

from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import torch
from diffusers.models.autoencoders.vae import Decoder, DecoderTiny
from torch import nn

from ..families.family import whole
from .attention import fold_attention
from .compiled import CompiledDecoder, Size
from .norm import make_norms_exact
from .resnet import make_lean
from .switches import CHANNELS_LAST, COMPILED, FOLDED_ATTENTION, FOLDED_UPSAMPLE
from .upsampling import fold_upsampling


@dataclass(frozen=True, slots=True)
class FastDecoder:
    """What stands in for a VAE's decoder, and the switches by which its bits differ whatever it decodes."""

    module: nn.Module
    steady: tuple[str, ...]

    @property
    def switches(self) -> tuple[str, ...]:
        """Those of the last decode."""
        was_compiled = isinstance(self.module, CompiledDecoder) and self.module.was_compiled
        return (*self.steady, COMPILED) if was_compiled else self.steady

    @property
    def compiles_next(self) -> bool:
        """Whether the next decode compiles before it decodes."""
        return isinstance(self.module, CompiledDecoder) and self.module.compiles_next

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) -> (n, 3, height, width): `vae.decode` with this module inside, for one decode at a time."""
        # An attribute of the plain module, which stays where it is: others may be counting its weights.
        vae.decoder.forward = self.module.__call__
        try:
            return whole(vae, latents)
        finally:
            del vae.decoder.forward


class ChannelsLast(nn.Module):
    """A decoder whose input has its channels last in memory, which each layer then keeps."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) -> (n, 3, height, width), channels last."""
        made: torch.Tensor = self.decoder(sample.contiguous(memory_format=torch.channels_last))
        return made


def fast_decoder(vae: Any, wanted: Collection[str], sizes: Sequence[Size] = ()) -> FastDecoder | None:
    """The fast decoder of a VAE, with those of the switches that its structure allows; None where nothing can be done.

    Its decoder is left as it is, and shares its weights: where those move or change their dtype, the fast one must
    follow (`module.to`).

    Args:
        sizes: Heights and widths of latents for which it is compiled, where that was seen to help its class.
    """
    plain: Any = getattr(vae, "decoder", None)
    if type(plain) not in (Decoder, DecoderTiny):
        return None
    shared = {id(one): one for one in chain(plain.parameters(), plain.buffers())}
    module: nn.Module = deepcopy(plain, shared)
    switches = [name for name, fold in _FOLDS.items() if name in wanted and fold(module)]
    is_lean = make_lean(module)
    if CHANNELS_LAST in wanted:
        switches.append(CHANNELS_LAST)
        make_norms_exact(module)
        module = ChannelsLast(module)
    if sizes and type(plain) in _COMPILES:
        return FastDecoder(CompiledDecoder(module, sizes), tuple(switches))
    return FastDecoder(module, tuple(switches)) if switches or is_lean else None


#: Decoders that are faster compiled; others were seen to get slower (Qwen-Image) or to gain nothing (Wan).
_COMPILES: Final = (Decoder,)

_FOLDS: Final = {FOLDED_UPSAMPLE: fold_upsampling, FOLDED_ATTENTION: fold_attention}
