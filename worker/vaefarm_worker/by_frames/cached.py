"""Decodes that give what `vae.decode` gives, one latent frame after the other.

Mochi and HunyuanVideo 1.5 look back in time alone: each convolution by the frames before, which it repeats the first
for, attention by all that went before, norms not at all. What a frame looks back at is kept instead of decoded again.
(The class of Mochi has such a decode of its own, `use_framewise_decoding`, but it keeps nothing: the picture jumps.)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from diffusers import AutoencoderKLHunyuanVideo15, AutoencoderKLMochi
from diffusers.models.autoencoders import autoencoder_kl_hunyuanvideo15 as hunyuan
from diffusers.models.autoencoders import autoencoder_kl_mochi as mochi
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d, CogVideoXSafeConv3d
from torch import nn

from .hunyuan_frame import HunyuanFrames

_BASICS: Final = (nn.ModuleList, nn.SiLU)
_PARTS: Final[dict[type, tuple[type, ...]]] = {
    AutoencoderKLMochi: (
        *(mochi.MochiDecoder3D, mochi.MochiMidBlock3D, mochi.MochiUpBlock3D, mochi.MochiResnetBlock3D),
        *(mochi.MochiChunkedGroupNorm3D, nn.GroupNorm, nn.Linear, nn.Conv3d),
        *(CogVideoXCausalConv3d, CogVideoXSafeConv3d),
    ),
    AutoencoderKLHunyuanVideo15: (
        *(hunyuan.HunyuanVideo15Decoder3D, hunyuan.HunyuanVideo15MidBlock, hunyuan.HunyuanVideo15UpBlock3D),
        *(hunyuan.HunyuanVideo15ResnetBlock, hunyuan.HunyuanVideo15AttnBlock, hunyuan.HunyuanVideo15Upsample),
        *(hunyuan.HunyuanVideo15RMS_norm, hunyuan.HunyuanVideo15CausalConv3d, nn.Conv3d),
    ),
}


def unknown_part(vae: Any) -> str | None:
    """The first part of a VAE's decoder that such a decode does not know; None where it knows all of it."""
    known = _PARTS.get(type(vae))
    if known is None:
        return type(vae).__name__
    parts = vae.decoder.named_modules()
    return next((name or "decoder" for name, part in parts if not _is_known(part, known)), None)


@torch.inference_mode()
def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """What `vae.decode(latents)` gives but for the order in which sums are added, video by video.

    Args:
        vae: One of which `unknown_part` is None.
        latents: (n, c, t, h, w), as `vae.decode` takes them, in the VAE's dtype.

    Returns:
        (n, 3, frames, height, width) in about [-1, 1].
    """
    made: torch.Tensor | None = None
    count, _, held, _, _ = latents.shape
    for place in range(count):
        with kept_frames(vae.decoder):
            step, start = _step(vae), 0
            for time in range(held):
                part = step(latents[place : place + 1, :, time : time + 1])
                if made is None:
                    # At once: what is laid behind one another afterwards stands there twice.
                    made = part.new_empty((count, part.shape[1], _frames(vae, held), *part.shape[3:]))
                made[place : place + 1, :, start : start + part.shape[2]] = part
                start += part.shape[2]
    assert made is not None
    if type(vae) is AutoencoderKLMochi and vae.drop_last_temporal_frames:
        return made[:, :, vae.temporal_compression_ratio - 1 :]
    return made


@contextmanager
def kept_frames(decoder: Any) -> Iterator[None]:
    """While it is entered, each convolution has before a call's frames those of the call before, as one of all has."""
    kept: dict[nn.Module, torch.Tensor] = {}

    def keep(conv: nn.Module, given: tuple[torch.Tensor]) -> None:
        # Padded already: in front of the frames lies the first of them, as often as it looks back.
        (padded,) = given
        back = conv.kernel_size[0] - 1  # type: ignore[index]
        if conv in kept:
            padded[:, :, :back] = kept[conv]
        kept[conv] = padded[:, :, -back:].clone()

    convolutions = [one for one in decoder.modules() if isinstance(one, nn.Conv3d) and one.kernel_size[0] > 1]
    handles = [one.register_forward_pre_hook(keep) for one in convolutions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _step(vae: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What decodes the next (1, c, 1, h, w) of a video."""
    if type(vae) is AutoencoderKLHunyuanVideo15:
        return HunyuanFrames(vae.decoder).next
    return lambda latent: vae.decoder(latent)[0]


def _frames(vae: Any, held: int) -> int:
    """Frames that the decoder makes of `held` latents; Mochi's as many of the first as of any, which are dropped."""
    ratio: int = vae.temporal_compression_ratio
    return held * ratio if type(vae) is AutoencoderKLMochi else (held - 1) * ratio + 1


def _is_known(part: Any, known: tuple[type, ...]) -> bool:
    if type(part) not in (*known, *_BASICS):
        return False
    # A convolution that looks back does so by padding that repeats, which is what is replaced.
    causal = isinstance(part, CogVideoXCausalConv3d | hunyuan.HunyuanVideo15CausalConv3d)
    return not causal or (part.pad_mode == "replicate" and part.conv.stride == (1, 1, 1) == part.conv.dilation)
