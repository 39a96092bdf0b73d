"""The switches of a fast decode, by the names that a record has of them, and where each is on.

docs/performance.md says what each was measured to give.
"""

from typing import Final

import torch

#: Up-sampling by two and the convolution behind it as one transposed convolution.
FOLDED_UPSAMPLE: Final[str] = "folded-upsample"
#: The projections of attention's values and of its output as one.
FOLDED_ATTENTION: Final[str] = "folded-attention"
#: Channels last in memory: the layout in which convolutions of a CPU compute.
CHANNELS_LAST: Final[str] = "channels-last"
#: Compiled by torch for the pictures' size.
COMPILED: Final[str] = "compiled"

_WANTED: Final[dict[str, frozenset[str]]] = {
    "cpu": frozenset({FOLDED_UPSAMPLE, FOLDED_ATTENTION, CHANNELS_LAST}),
    # Not channels last: GroupNorm's kernel takes twice as long there, and makes the whole decode slower.
    "cuda": frozenset({FOLDED_UPSAMPLE, FOLDED_ATTENTION}),
}


def wanted_on(device: torch.device) -> frozenset[str]:
    """The switches that help on a kind of device; none on one where nobody measured them."""
    return _WANTED.get(device.type, frozenset())
