"""Pipelines with a transformer that return spatial latents."""

from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKLHunyuanImage,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tests.parity.case import (
    Case,
    call_arguments,
    embeddings,
    flux_kl,
    masked_prompt,
    random,
    tiny_autoencoder,
    tiny_kl,
    vivid,
)


def _stable_diffusion_3(name: str, vae: Any, vae_id: str) -> Case:
    transformer = random(
        12,
        SD3Transformer2DModel,
        sample_size=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    prompt = {"prompt_embeds": embeddings(1, 4, 16), "pooled_prompt_embeds": embeddings(1, 16)}
    return Case(name, vae_id, pipeline, call_arguments(**prompt))


def stable_diffusion_3() -> Case:
    """Stable Diffusion 3."""
    vae = tiny_kl(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    return _stable_diffusion_3("stable-diffusion-3", vae, "sd3")


def taesd3() -> Case:
    """Stable Diffusion 3 with the tiny VAE in its place."""
    return _stable_diffusion_3("taesd3", tiny_autoencoder(16), "taesd3")


def z_image() -> Case:
    """Z-Image: Flux.1's VAE, yet spatial latents; two pictures of one prompt."""
    transformer = random(
        13,
        ZImageTransformer2DModel,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():
        # Left uninitialised by the class: a checkpoint has them.
        transformer.x_pad_token.zero_()
        transformer.cap_pad_token.zero_()
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux_kl(),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    prompt = {"prompt_embeds": [embeddings(4, 16)], "num_images_per_prompt": 2}
    return Case("z-image", "z-image", pipeline, call_arguments(**prompt) | {"guidance_scale": 0.0})


def lumina2() -> Case:
    """Lumina 2: Flux.1's VAE, yet spatial latents."""
    transformer = random(
        14,
        Lumina2Transformer2DModel,
        sample_size=16,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(64, 32, 32),
        cap_feat_dim=16,
    )
    pipeline = Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux_kl(),
        text_encoder=None,
        tokenizer=None,
    )
    return Case("lumina-2", "flux", pipeline, call_arguments(**masked_prompt(16)))


def aura_flow() -> Case:
    """AuraFlow: Stable Diffusion XL's VAE."""
    transformer = random(
        15,
        AuraFlowTransformer2DModel,
        sample_size=16,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pos_embed_max_size=256,
    )
    pipeline = AuraFlowPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=tiny_kl(4, scaling_factor=0.13025, force_upcast=True),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    return Case("aura-flow", "auraflow", pipeline, call_arguments(**masked_prompt(16)))


def cogview4() -> Case:
    """CogView 4: no factor, no shift, and a VAE without attention."""
    transformer = random(
        16,
        CogView4Transformer2DModel,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
    )
    pipeline = CogView4Pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=tiny_kl(16, scaling_factor=1.0, shift_factor=0.0, mid_block_add_attention=False),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    return Case("cogview4", "cogview4", pipeline, call_arguments(prompt_embeds=embeddings(1, 16, 16)))


def hunyuan_image() -> Case:
    """HunyuanImage 2.1: 64 channels, a factor of 32."""
    vae: Any = random(
        17,
        AutoencoderKLHunyuanImage,
        in_channels=3,
        out_channels=3,
        latent_channels=64,
        block_out_channels=(32, 32, 64, 64, 128, 128),
        layers_per_block=1,
        spatial_compression_ratio=32,
        sample_size=384,
        scaling_factor=0.75289,
    )
    transformer = random(
        18,
        HunyuanImageTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        text_embed_2_dim=16,
        rope_axes_dim=(4, 4),
    )
    pipeline = HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vivid(vae, vae.decoder.conv_out, 1, 64, 2, 2),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    mask = torch.ones(1, 4, dtype=torch.int64)
    prompt = {
        "prompt_embeds": embeddings(1, 4, 16),
        "prompt_embeds_mask": mask,
        "prompt_embeds_2": embeddings(1, 4, 16),
        "prompt_embeds_mask_2": mask,
    }
    arguments = {"num_inference_steps": 2, "height": 96, "width": 64, **prompt}
    return Case("hunyuan-image", "hunyuanimage-2-1", pipeline, arguments)
