"""Stable Video Diffusion, which makes a video of a picture."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from tests.parity.case import embeddings, random
from tests.parity.videos import VideoCase
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection


def svd() -> VideoCase:
    """All frames at a time, two videos of one call."""
    return _svd("svd", {}, num_videos_per_prompt=2)


def svd_in_chunks() -> VideoCase:
    """Two frames at a time, and then the last."""
    return _svd("svd-chunks", {"decode_chunk_size": 2}, decode_chunk_size=2)


def _svd(name: str, options: dict[str, Any], **more: Any) -> VideoCase:
    vae: Any = random(
        5,
        AutoencoderKLTemporalDecoder,
        down_block_types=["DownEncoderBlock2D"] * 4,
        block_out_channels=(32,) * 4,
    )

    with torch.no_grad():
        spread = vae.decode(2 * embeddings(2, 4, 6, 4), num_frames=2).sample.std()
        vae.decoder.time_conv_out.weight.mul_(0.5 / spread)
        vae.decoder.time_conv_out.bias.mul_(0.5 / spread)
    unet = random(
        6,
        UNetSpatioTemporalConditionModel,
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=32,
        intermediate_size=37,
        patch_size=8,
    )
    pipeline = StableVideoDiffusionPipeline(
        vae=vae.eval(),
        image_encoder=random(7, CLIPVisionModelWithProjection, config=vision).eval(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        feature_extractor=CLIPImageProcessor(crop_size=32, size=32),
    )
    image = embeddings(1, 3, 32, 32).clamp(-1, 1) / 2 + 0.5
    sizes = {"num_frames": 3, "height": 48, "width": 32, "num_inference_steps": 2, "max_guidance_scale": 1.0}
    # Its pipeline encodes the picture.
    return VideoCase(name, "svd", pipeline, {"image": image} | sizes | more, options, needs_vae=True)
