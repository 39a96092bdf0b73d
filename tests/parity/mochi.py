"""Mochi."""

from typing import Any

import torch
from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel
from tests.parity.case import embeddings, random, vivid
from tests.parity.videos import VideoCase


def mochi() -> VideoCase:
    """Mochi 1: six frames a latent."""
    vae: Any = random(
        5,
        AutoencoderKLMochi,
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    transformer = random(
        6,
        MochiTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=16,
        time_embed_dim=4,
        max_sequence_length=4,
    )
    pipeline = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vivid(vae, vae.decoder.proj_out, 1, 12, 2, 8, 8),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    prompt = {"prompt_embeds": embeddings(1, 4, 16), "prompt_attention_mask": torch.ones(1, 4, dtype=torch.bool)}
    sizes = {"num_frames": 13, "height": 48, "width": 32, "num_inference_steps": 2, "guidance_scale": 1.0}
    return VideoCase("mochi", "mochi", pipeline, prompt | sizes)
