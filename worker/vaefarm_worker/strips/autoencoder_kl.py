"""An AutoencoderKL's decode, exactly, in strips of rows.

A 3x3 convolution needs a row more on either side of a strip; each keeps the last rows that it was given, so that none
is computed twice for that. A GroupNorm needs the whole map: its moments are merged while the map is written, and the
norm is applied as one scale and shift where the next convolution reads. What is added to a map is added in place.
"""

from typing import Any, Final

import torch
from torch import nn

from .attention import attention
from .convolution import Normed, RowConvolution
from .maps import FeatureMap, Stored, Upsampled, empty_rows, in_strips
from .resnet import resnet

#: Strips of the widest map at the picture's own size; a strip of a smaller map has as many elements, and more rows.
_PARTS: Final[int] = 48

#: Most elements of a strip: larger ones are no faster.
_MAX_ELEMENTS: Final[int] = 2**25

#: Fewest rows of a strip: each strip of an up-sampled map has four rows more computed than it gives.
_MIN_ROWS: Final[int] = 8


class KlDecode:
    """Decodes pictures of one size."""

    def __init__(self, vae: Any, latent_pixels: int, recompute: bool, strip: int | None) -> None:
        """`latent_pixels`: height times width of the latents. Others: see `strips.decode`."""
        self._vae = vae
        self._decoder = vae.decoder
        self._recompute = recompute
        self._strip = strip
        blocks = self._decoder.up_blocks
        self._scale = 2 ** sum(len(block.upsamplers or ()) for block in blocks)
        widest = max(blocks[-1].resnets[0].in_channels, blocks[-1].resnets[0].out_channels)
        #: Elements of a strip.
        self._elements = min(_MAX_ELEMENTS, widest * latent_pixels * self._scale**2 // _PARTS)

    def picture(self, latent: torch.Tensor) -> torch.Tensor:
        """(1, c, h, w) -> (1, 3, height, width)."""
        if self._vae.post_quant_conv is not None:
            latent = self._vae.post_quant_conv(latent)
        return self._finished(self._raised(self._middle(self._begun(latent))))

    def _begun(self, latent: torch.Tensor) -> Stored:
        rows = self._decoder.conv_in(latent)
        _, channels, height, width = rows.shape
        made = Stored(empty_rows(channels, height, width, rows))
        made.write(0, rows)
        return made

    def _middle(self, held: Stored) -> Stored:
        block = self._decoder.mid_block
        held = self._resnet(block.resnets[0], held, is_sparing=False)
        for attending, following in zip(block.attentions, block.resnets[1:], strict=True):
            if attending is not None:
                held = attention(attending, held, self._elements)
            held = self._resnet(following, held, is_sparing=False)
        return held

    def _raised(self, held: FeatureMap) -> FeatureMap:
        """Through the up blocks."""
        scale = 1
        for block in self._decoder.up_blocks:
            for each in block.resnets:
                held = self._resnet(each, held, self._recompute and scale == self._scale)
            for upsampler in block.upsamplers or ():
                scale *= 2
                assert isinstance(held, Stored), "a block has resnets, and they store their maps"
                held = self._upsampled(held, upsampler.conv, self._recompute and scale == self._scale)
        return held

    def _resnet(self, block: Any, held: FeatureMap, is_sparing: bool) -> Stored:
        channels, _, width = held.shape
        return resnet(block, held, self._rows(max(channels, block.out_channels), width), is_sparing)

    def _upsampled(self, below: Stored, conv: nn.Conv2d, is_sparing: bool) -> FeatureMap:
        made = Upsampled(below, conv, self._rows(conv.out_channels, 2 * below.shape[2]))
        return made if is_sparing else made.stored()

    def _finished(self, held: FeatureMap) -> torch.Tensor:
        channels, height, width = held.shape
        last = RowConvolution(self._decoder.conv_out, Normed(self._decoder.conv_norm_out, held.moments))
        picture: torch.Tensor = self._decoder.conv_out.weight.new_empty(
            (1, self._decoder.conv_out.out_channels, height, width)
        )
        for at, rows in last.over(in_strips(held, self._rows(channels, width)), height):
            picture[:, :, at : at + rows.shape[2]].copy_(rows)
        return picture

    def _rows(self, channels: int, width: int) -> int:
        """Rows of a strip of a map."""
        return self._strip or max(_MIN_ROWS, self._elements // (channels * width))
