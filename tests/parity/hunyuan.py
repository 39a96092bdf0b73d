"""HunyuanVideo 1.0 and 1.5."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from tests.parity.case import embeddings, random, vivid
from tests.parity.videos import VideoCase


def hunyuan_video() -> VideoCase:
    """HunyuanVideo 1.0: six latent frames, of which its VAE decodes five at a time and blends what overlaps."""
    return _hunyuan_video("hunyuan-video", 21)


def short_hunyuan_video() -> VideoCase:
    """The same of two latent frames, which its VAE decodes at once; two videos of one call."""
    return _hunyuan_video("hunyuan-video-short", 5, num_videos_per_prompt=2)


def _hunyuan_video(name: str, num_frames: int, **more: Any) -> VideoCase:
    vae: Any = random(5, AutoencoderKLHunyuanVideo, block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4)
    transformer = random(
        6,
        HunyuanVideoTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    pipeline = HunyuanVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        vae=vivid(vae, vae.decoder.conv_out.conv, 1, 16, 2, 8, 8),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=None,
        tokenizer_2=None,
    )
    arguments = {
        "prompt_embeds": embeddings(1, 4, 16),
        "pooled_prompt_embeds": embeddings(1, 8),
        "prompt_attention_mask": torch.ones(1, 4),
        **{"num_frames": num_frames, "height": 48, "width": 32, "num_inference_steps": 2},
    }
    return VideoCase(name, "hunyuan-video", pipeline, arguments | more)


def hunyuan_video_1_5() -> VideoCase:
    """HunyuanVideo 1.5: 16 pixels a latent, 32 channels of latents."""
    vae: Any = random(5, AutoencoderKLHunyuanVideo15, block_out_channels=(32,) * 5, layers_per_block=1)
    transformer = random(
        6,
        HunyuanVideo15Transformer3DModel,
        in_channels=65,
        out_channels=32,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    pipeline = HunyuanVideo15Pipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        vae=vivid(vae, vae.decoder.conv_out.conv, 1, 32, 2, 4, 4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=None,
        tokenizer_2=None,
        guider=ClassifierFreeGuidance(guidance_scale=1.0),
    )
    arguments = {
        **{"prompt_embeds": embeddings(1, 4, 16), "prompt_embeds_mask": torch.ones(1, 4)},
        **{"prompt_embeds_2": embeddings(1, 3, 32), "prompt_embeds_mask_2": torch.ones(1, 3)},
        **{"num_frames": 5, "height": 64, "width": 48, "num_inference_steps": 2},
    }
    # Its pipeline asks its VAE how many channels latents have.
    return VideoCase("hunyuan-video-1.5", "hunyuan-video-1-5", pipeline, arguments, needs_vae=True)
