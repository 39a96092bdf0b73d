"""The fast decode: a VAE's decoder with its convolutions and projections re-associated, beside the plain one.

What changes bits is a switch that a record names; a reproducible job is decoded by the plain module.
"""

from .decoder import FastDecoder, fast_decoder
from .switches import CHANNELS_LAST, COMPILED, FOLDED_ATTENTION, FOLDED_UPSAMPLE, wanted_on

__all__ = [
    "CHANNELS_LAST",
    "COMPILED",
    "FOLDED_ATTENTION",
    "FOLDED_UPSAMPLE",
    "FastDecoder",
    "fast_decoder",
    "wanted_on",
]
