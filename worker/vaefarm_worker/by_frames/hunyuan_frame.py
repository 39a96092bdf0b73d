"""HunyuanVideo 1.5's decoder, one latent frame after the other.

Its class lets a frame attend to itself and those before by a mask over all pairs of places, which for 129 frames of
720 x 1280 has 14 billion entries; one frame at a time needs none.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


class HunyuanFrames:
    """The frames of one video, in their order. Its convolutions keep what they look back at by themselves."""

    def __init__(self, decoder: Any) -> None:
        """Of a HunyuanVideo15Decoder3D."""
        self._decoder = decoder
        #: By attention, keys and values of all that went before.
        self._attended: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._is_first = True

    def next(self, latent: torch.Tensor) -> torch.Tensor:
        """(1, c, 1, h, w) -> (1, 3, frames, height, width): one frame of the first latent, else its share of them."""
        decoder, mid = self._decoder, self._decoder.mid_block
        hidden = decoder.conv_in(latent) + latent.repeat_interleave(repeats=decoder.repeat, dim=1)
        hidden = mid.resnets[0](hidden)
        for place, (attention, resnet) in enumerate(zip(mid.attentions, mid.resnets[1:], strict=True)):
            hidden = resnet(hidden if attention is None else self._attend(place, attention, hidden))
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                hidden = resnet(hidden)
            for upsampler in block.upsamplers or ():
                hidden = self._upsampled(upsampler, hidden)
        self._is_first = False
        made: torch.Tensor = decoder.conv_out(decoder.conv_act(decoder.norm_out(hidden)))
        return made

    def _attend(self, place: int, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """(1, c, 1, h, w) by itself and all frames before it."""
        normed = block.norm(hidden)
        query, key, value = (
            made(normed).flatten(2).permute(0, 2, 1).unsqueeze(1).contiguous()
            for made in (block.to_q, block.to_k, block.to_v)
        )
        if place in self._attended:
            keys, values = self._attended[place]
            key, value = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        self._attended[place] = key, value
        attended = scaled_dot_product_attention(query, key, value)
        mixed: torch.Tensor = block.proj_out(attended.squeeze(1).permute(0, 2, 1).reshape(normed.shape))
        return mixed + hidden

    def _upsampled(self, upsampler: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Twice as large, and of frames behind the video's first twice as many."""
        if self._is_first or not upsampler.add_temporal_upsample:
            return upsampler(hidden)  # type: ignore[no-any-return]
        raised, shortcut = (
            upsampler._dcae_upsample_rearrange(one, r1=2, r2=2, r3=2) for one in (upsampler.conv(hidden), hidden)
        )
        return raised + shortcut.repeat_interleave(repeats=upsampler.repeats, dim=1)  # type: ignore[no-any-return]
