"""Pipelines with a transformer that return packed latents: tokens, which need height and width beside them."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tests.parity.case import Case, embeddings, flux_kl, random, tiny_autoencoder, vivid

SIZE = {"height": 96, "width": 64}

#: A size of no whole number of tokens: pictures are 96 x 64.
ROUNDED = {"height": 108, "width": 72}


def _flux(name: str, vae: Any, vae_id: str, size: dict[str, int], count: int = 1) -> Case:
    transformer = random(
        31,
        FluxTransformer2DModel,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    prompt = {"prompt_embeds": embeddings(1, 4, 16), "pooled_prompt_embeds": embeddings(1, 16)}
    arguments = {"num_inference_steps": 2, "num_images_per_prompt": count} | prompt | size
    return Case(name, vae_id, pipeline, arguments, size)


def flux() -> Case:
    """Flux.1, two pictures of one prompt."""
    return _flux("flux", flux_kl(), "flux", SIZE, count=2)


def flux_rounded() -> Case:
    """Flux.1 asked for a size of no whole number of tokens: its picture is smaller, 96 x 64."""
    return _flux("flux-rounded", flux_kl(), "flux", ROUNDED)


def taef1() -> Case:
    """Flux.1 with the tiny VAE in its place."""
    return _flux("taef1", tiny_autoencoder(16), "taef1", SIZE)


def chroma() -> Case:
    """Chroma: Flux.1's latents."""
    transformer = random(
        32,
        ChromaTransformer2DModel,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    pipeline = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux_kl(),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    prompt = {"prompt_embeds": embeddings(1, 4, 16), "prompt_attention_mask": torch.ones(1, 4)}
    arguments = {"num_inference_steps": 2, "guidance_scale": 1.0} | prompt | SIZE
    return Case("chroma", "flux", pipeline, arguments, SIZE)


def _flux2_models() -> dict[str, Any]:
    vae: Any = random(
        33,
        AutoencoderKLFlux2,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
    )
    vae.bn.running_mean.copy_(embeddings(128))
    vae.bn.running_var.copy_(0.5 + embeddings(128).square())
    transformer = random(
        34,
        Flux2Transformer2DModel,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 4, 4),
    )
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": vivid(vae, vae.decoder.conv_out, 1, 32, 8, 8),
        "text_encoder": None,
        "tokenizer": None,
        "transformer": transformer,
    }


def flux2() -> Case:
    """Flux.2, two pictures of one prompt; its latents are no contiguous tensor."""
    prompt = {"prompt_embeds": embeddings(1, 4, 16), "num_images_per_prompt": 2}
    arguments = {"num_inference_steps": 2} | prompt | SIZE
    return Case("flux2", "flux2", Flux2Pipeline(**_flux2_models()), arguments, SIZE)


def flux2_rounded() -> Case:
    """Flux.2 asked for a size of no whole number of tokens."""
    arguments = {"num_inference_steps": 1, "prompt_embeds": embeddings(1, 4, 16)} | ROUNDED
    return Case("flux2-rounded", "flux2", Flux2Pipeline(**_flux2_models()), arguments, ROUNDED)


def _flux2_klein(name: str, options: dict[str, Any], from_callback: bool) -> Case:
    pipeline = Flux2KleinPipeline(**_flux2_models(), is_distilled=True)
    arguments = {"num_inference_steps": 2, "guidance_scale": 1.0, "prompt_embeds": embeddings(1, 4, 16)} | SIZE
    return Case(name, "flux2", pipeline, arguments, options, from_callback=from_callback, needs_vae=True)


def flux2_klein() -> Case:
    """Flux.2 klein, whose latents are those of the last step.

    With `output_type="latent"` it returns what its VAE's statistics made of them, unpacked: the decoder's own input.
    For that it needs a VAE, and without one it fails after the last step; a callback has the tokens, as Flux.2's are.
    """
    return _flux2_klein("flux2-klein", SIZE, from_callback=True)


def flux2_klein_denormalised() -> Case:
    """Flux.2 klein with what it returns, which the farm must decode as it is."""
    return _flux2_klein("flux2-klein-denormalised", {"normalised": False}, from_callback=False)


def qwen_image() -> Case:
    """Qwen-Image, two pictures of one prompt: a VAE for video, its pictures one frame."""
    return _qwen_image("qwen-image", SIZE)


def qwen_image_rounded() -> Case:
    """Qwen-Image asked for a size of no whole number of tokens."""
    return _qwen_image("qwen-image-rounded", ROUNDED)


def _qwen_image(name: str, size: dict[str, int]) -> Case:
    vae: Any = random(35, AutoencoderKLQwenImage, base_dim=8, num_res_blocks=1)
    transformer = random(
        36,
        QwenImageTransformer2DModel,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vivid(vae, vae.decoder.conv_out, 1, 16, 1, 8, 8),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    prompt = {"prompt_embeds": embeddings(2, 4, 16), "prompt_embeds_mask": torch.ones(2, 4, dtype=torch.int64)}
    arguments = {"num_inference_steps": 2, "true_cfg_scale": 1.0} | prompt | size
    return Case(name, "qwen-image", pipeline, arguments, size)


class NoProcessor:
    """In the place of a prompt's processor: the pipeline asks it for two numbers when it is made."""

    tokenizer = SimpleNamespace(encode=lambda _text: [0])

    def apply_chat_template(self, *_messages: Any, **_options: Any) -> list[list[int]]:
        """No token."""
        return [[]]


def qwen_image_21() -> Case:
    """Qwen-Image 2.1: one token for each latent, and pictures with transparency."""
    vae: Any = random(37, AutoencoderKLQwenImage21, base_dim=8, decoder_base_dim=8, num_res_blocks=1)
    transformer = random(
        38,
        QwenImage21Transformer2DModel,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    pipeline = QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vivid(vae, vae.decoder.conv_out, 1, 64, 1, 4, 4),
        text_encoder=None,
        processor=NoProcessor(),
        transformer=transformer,
    )
    arguments = {"num_inference_steps": 2, "prompt_embeds": embeddings(1, 4, 16)} | SIZE
    return Case("qwen-image-2.1", "qwen-image-2-1", pipeline, arguments, SIZE)
