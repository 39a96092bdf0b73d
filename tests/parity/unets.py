"""Pipelines with a UNet: spatial latents of an AutoencoderKL."""

import sys
from types import ModuleType
from typing import Any
from unittest import mock

from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from tests.parity.case import Case, call_arguments, embeddings, random, tiny_autoencoder, tiny_kl

#: Playground 2.5's own.
PLAYGROUND_MEAN = [-1.6574, 1.886, -1.383, 2.5155]
PLAYGROUND_STD = [8.4927, 5.9022, 6.5498, 5.2299]


def _unet(**config: Any) -> Any:
    return random(
        11,
        UNet2DConditionModel,
        sample_size=64,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
        **config,
    )


def _xl_unet() -> Any:
    # The pooled embedding and six numbers of size and crop, each in eight features.
    return _unet(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16
    )


def _scheduler() -> Any:
    return DDIMScheduler(clip_sample=False, steps_offset=1)


def _stable_diffusion(name: str, vae: Any, vae_id: str) -> Case:
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=_unet(),
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Case(name, vae_id, pipeline, call_arguments(prompt_embeds=embeddings(1, 4, 16), num_images_per_prompt=2))


def stable_diffusion() -> Case:
    """Stable Diffusion 1.x, two pictures of one prompt."""
    return _stable_diffusion("stable-diffusion", tiny_kl(4, scaling_factor=0.18215), "sd-v1")


def taesd() -> Case:
    """Stable Diffusion 1.x with the tiny VAE in its place."""
    return _stable_diffusion("taesd", tiny_autoencoder(4), "taesd")


def _xl(name: str, vae: Any, vae_id: str) -> Case:
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=_xl_unet(),
        scheduler=_scheduler(),
        add_watermarker=False,
    )
    prompt = {"prompt_embeds": embeddings(1, 4, 16), "pooled_prompt_embeds": embeddings(1, 16)}
    return Case(name, vae_id, pipeline, call_arguments(**prompt))


def stable_diffusion_xl() -> Case:
    """Stable Diffusion XL, whose VAE asks to be decoded in float32."""
    return _xl("stable-diffusion-xl", tiny_kl(4, scaling_factor=0.13025, force_upcast=True), "sdxl")


def playground() -> Case:
    """Playground 2.5: Stable Diffusion XL's pipeline, latents normalised channel by channel."""
    vae = tiny_kl(4, scaling_factor=0.5, latents_mean=PLAYGROUND_MEAN, latents_std=PLAYGROUND_STD)
    return _xl("playground", vae, "playground-v2-5")


def taesdxl() -> Case:
    """Stable Diffusion XL with the tiny VAE in its place."""
    return _xl("taesdxl", tiny_autoencoder(4), "taesdxl")


def kolors() -> Case:
    """Kolors: Stable Diffusion XL's latents."""
    # diffusers hides the pipeline where sentencepiece is not installed; its tokenizer alone needs that.
    sentencepiece = ModuleType("sentencepiece")
    sentencepiece.SentencePieceProcessor = object  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {} if "sentencepiece" in sys.modules else {"sentencepiece": sentencepiece}):
        from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline

    pipeline = KolorsPipeline(
        vae=tiny_kl(4, scaling_factor=0.13025, force_upcast=True),
        text_encoder=None,
        tokenizer=None,
        unet=_xl_unet(),
        scheduler=_scheduler(),
    )
    prompt = {"prompt_embeds": embeddings(1, 4, 16), "pooled_prompt_embeds": embeddings(1, 16)}
    return Case("kolors", "kolors", pipeline, call_arguments(**prompt))
