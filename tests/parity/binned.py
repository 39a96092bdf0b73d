"""Pipelines that generate in the nearest of their trained sizes, and resize and crop to the one asked for."""

from typing import Any

from diffusers import (
    AutoencoderDC,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)
from tests.parity.case import Case, call_arguments, masked_prompt, random, tiny_kl, vivid


def _sana(name: str, options: dict[str, int], **call: Any) -> Case:
    widths = (8, 8, 16, 16, 32, 32)
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    scales = ((),) * 3 + ((5,),) * 3
    vae: Any = random(
        19,
        AutoencoderDC,
        attention_head_dim=8,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        scaling_factor=0.41407,
    )
    transformer = random(
        20,
        SanaTransformer2DModel,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        sample_size=16,
    )
    pipeline = SanaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vivid(vae, vae.decoder.conv_out, 1, 32, 2, 2),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    return Case(name, "sana", pipeline, call_arguments(**masked_prompt(16), **call), options)


def sana() -> Case:
    """Sana of the size asked for: a deep-compression VAE, a factor of 32."""
    return _sana("sana", {}, use_resolution_binning=False)


def sana_binned() -> Case:
    """Sana in the nearest of its trained sizes, its picture made smaller and cropped to the one asked for."""
    size = {"height": 200, "width": 328}
    return _sana("sana-binned", size, **size)


def _pixart(name: str, vae: Any, vae_id: str, pipeline_class: Any, options: dict[str, int], **call: Any) -> Case:
    transformer = random(
        21,
        PixArtTransformer2DModel,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        norm_num_groups=8,
        sample_size=32,
    )
    pipeline = pipeline_class(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=DDIMScheduler(clip_sample=False)
    )
    return Case(name, vae_id, pipeline, call_arguments(**masked_prompt(16), **call), options)


def pixart_alpha() -> Case:
    """PixArt-Alpha of the size asked for: Stable Diffusion 1.x's VAE."""
    vae = tiny_kl(4, scaling_factor=0.18215)
    return _pixart("pixart-alpha", vae, "pixart-alpha", PixArtAlphaPipeline, {}, use_resolution_binning=False)


def pixart_alpha_binned() -> Case:
    """PixArt-Alpha in a trained size, its picture enlarged and cropped to the one asked for."""
    size = {"height": 304, "width": 272}
    vae = tiny_kl(4, scaling_factor=0.18215)
    return _pixart("pixart-alpha-binned", vae, "pixart-alpha", PixArtAlphaPipeline, size, **size)


def pixart_sigma() -> Case:
    """PixArt-Sigma of the size asked for: Stable Diffusion XL's VAE."""
    vae = tiny_kl(4, scaling_factor=0.13025)
    return _pixart("pixart-sigma", vae, "pixart-sigma", PixArtSigmaPipeline, {}, use_resolution_binning=False)


def pixart_sigma_binned() -> Case:
    """PixArt-Sigma in a trained size, its picture made smaller and cropped to the one asked for."""
    size = {"height": 120, "width": 200}
    vae = tiny_kl(4, scaling_factor=0.13025)
    return _pixart("pixart-sigma-binned", vae, "pixart-sigma", PixArtSigmaPipeline, size, **size)
