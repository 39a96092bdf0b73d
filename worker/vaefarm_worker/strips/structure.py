"""Whether a VAE's decoder is made of parts that a decode in strips knows, and of nothing else."""

from collections.abc import Iterator
from typing import Any, Final

from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderTiny
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.autoencoders.vae import Decoder, DecoderTiny
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock, UNetMidBlock2D, UpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

_KL: Final = (AutoencoderKL, AutoencoderKLFlux2)
_ACTIVATIONS: Final = (nn.ReLU, nn.SiLU, nn.GELU, nn.Mish, nn.Identity)


def unknown_part(vae: Any) -> str | None:
    """The first part of a VAE's decoder that strips do not know; None where they know all of it."""
    if type(vae) in _KL:
        return next(_unknown_of_kl(vae), None)
    if type(vae) is AutoencoderTiny:
        return next(_unknown_of_tiny(vae.decoder), None)
    return type(vae).__name__


def _unknown_of_kl(vae: Any) -> Iterator[str]:
    decoder = vae.decoder
    if vae.post_quant_conv is not None and not _is_conv(vae.post_quant_conv, 1):
        yield "post_quant_conv"
    if type(decoder) is not Decoder or type(decoder.mid_block) is not UNetMidBlock2D:
        yield "decoder"
        return
    for name in ("conv_in", "conv_out"):
        if not _is_conv(getattr(decoder, name), 3):
            yield name
    if not _is_norm(decoder.conv_norm_out) or type(decoder.conv_act) is not nn.SiLU:
        yield "conv_norm_out"
    yield from (f"mid_block.resnets.{place}" for place in _unknown_resnets(decoder.mid_block))
    for place, attending in enumerate(decoder.mid_block.attentions):
        if attending is not None and not _is_attention(attending):
            yield f"mid_block.attentions.{place}"
    for number, block in enumerate(decoder.up_blocks):
        if type(block) is not UpDecoderBlock2D:
            yield f"up_blocks.{number}"
            continue
        yield from (f"up_blocks.{number}.resnets.{place}" for place in _unknown_resnets(block))
        if not all(_is_upsampler(one) for one in block.upsamplers or ()):
            yield f"up_blocks.{number}.upsamplers"


def _unknown_resnets(block: Any) -> Iterator[int]:
    return (place for place, one in enumerate(block.resnets) if not _is_resnet(one))


def _is_resnet(block: Any) -> bool:
    return (
        type(block) is ResnetBlock2D
        and block.time_emb_proj is None
        and block.time_embedding_norm != "scale_shift"
        and block.upsample is None
        and block.downsample is None
        and _is_norm(block.norm1)
        and _is_norm(block.norm2)
        and _is_conv(block.conv1, 3)
        and _is_conv(block.conv2, 3)
        and type(block.nonlinearity) is nn.SiLU
        and not (block.training and block.dropout.p)
        and (block.conv_shortcut is None or _is_conv(block.conv_shortcut, 1))
    )


def _is_attention(block: Any) -> bool:
    return (
        type(block) is Attention
        and type(block.processor) is AttnProcessor2_0
        and _is_norm(block.group_norm)
        and all(type(one) is nn.Linear for one in (block.to_q, block.to_k, block.to_v, block.to_out[0]))
        and not (block.training and block.to_out[1].p)
        and all(getattr(block, name, None) is None for name in ("spatial_norm", "norm_q", "norm_k"))
    )


def _is_upsampler(block: Any) -> bool:
    return (
        type(block) is Upsample2D
        and block.norm is None
        and block.use_conv
        and not block.use_conv_transpose
        and block.interpolate
        and _is_conv(getattr(block, "conv", None), 3)
    )


def _unknown_of_tiny(decoder: Any) -> Iterator[str]:
    if type(decoder) is not DecoderTiny:
        yield "decoder"
        return
    for place, layer in enumerate(decoder.layers):
        known = (
            _is_conv(layer, 3)
            or type(layer) in _ACTIVATIONS
            or (type(layer) is nn.Upsample and layer.mode == "nearest" and layer.scale_factor in (2.0, 3.0, 4.0))
            or (type(layer) is AutoencoderTinyBlock and _is_tiny_block(layer))
        )
        if not known:
            yield f"layers.{place}"


def _is_tiny_block(block: Any) -> bool:
    return (
        all(_is_conv(one, 3) or type(one) in _ACTIVATIONS for one in block.conv)
        and (_is_conv(block.skip, 1) or type(block.skip) is nn.Identity)
        and type(block.fuse) in _ACTIVATIONS
    )


def _is_norm(norm: Any) -> bool:
    return type(norm) is nn.GroupNorm


def _is_conv(conv: Any, size: int) -> bool:
    """Whether it is a convolution of that size whose output is as large as its input."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == (size, size)
        and conv.padding == (size // 2, size // 2)
        and conv.padding_mode == "zeros"
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
    )
