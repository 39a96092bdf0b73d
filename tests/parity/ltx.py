"""LTX-Video, whose pipelines return tokens, and LTX-2, whose pipeline returns what its decoder takes."""

from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from tests.parity.case import embeddings, random
from tests.parity.videos import SEED, VideoCase

#: Rows and columns of 3 x 2 latents.
SIZE = {"num_frames": 9, "height": 96, "width": 64}


def ltx() -> VideoCase:
    """LTX-Video 0.9.0."""
    return _ltx("ltx", LTXPipeline, "ltx-video")


def ltx_of_two_videos() -> VideoCase:
    """Two videos of one call."""
    prompts: dict[str, Any] = {
        "prompt_embeds": embeddings(2, 4, 16),
        "prompt_attention_mask": torch.ones(2, 4, dtype=torch.bool),
    }
    return _ltx("ltx-two", LTXPipeline, "ltx-video", **prompts)


def ltx_condition() -> VideoCase:
    """LTX-Video's other pipeline, which returns its latents as a grid of frames, and fails without its VAE."""
    return replace(_ltx("ltx-unpacked", LTXConditionPipeline, "ltx-video", options={}), needs_vae=True)


def ltx_with_timestep() -> VideoCase:
    """LTX-Video 0.9.5: a decoder that takes a timestep, 0 unless the pipeline is told another."""
    return _ltx("ltx-timestep", LTXPipeline, "ltx-video-0-9-5", conditioned_vae())


def ltx_with_noise() -> VideoCase:
    """LTX-Video 0.9.1: noise among the latents and in the decoder's blocks, both of one seed."""
    told = {"decode_timestep": 0.3, "decode_noise_scale": 0.2}
    # Its generator would be further on otherwise.
    latents = embeddings(1, 2 * 3 * 2, 128)
    vae = conditioned_vae(decoder_inject_noise=(True,) * 5)
    options = SIZE | told | {"seed": SEED}
    return _ltx("ltx-noise", LTXPipeline, "ltx-video-0-9-1", vae, options, latents=latents, **told)


def conditioned_vae(**config: Any) -> Any:
    """A small VAE of LTX-Video's whose decoder takes a timestep."""
    return tiny_ltx_vae(timestep_conditioning=True, **config)


def tiny_ltx_vae(**config: Any) -> Any:
    """A small AutoencoderKLLTXVideo: the factors of the real ones, 32 in space and 8 in time, and statistics."""
    vae: Any = random(
        5,
        AutoencoderKLLTXVideo,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        **config,
    )
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if "per_channel_scale" in name:
                parameter.fill_(0.5)
    return _with_statistics(vae)


def _with_statistics(vae: Any) -> Any:
    vae.latents_mean.copy_(torch.linspace(-1, 1, 128))
    vae.latents_std.copy_(torch.linspace(0.5, 2, 128))
    time = torch.zeros(1) if vae.config.timestep_conditioning else None
    with torch.no_grad():
        spread = vae.decode(embeddings(1, 128, 2, 3, 2), time).sample.std()
        vae.decoder.conv_out.conv.weight.mul_(0.5 / spread)
        vae.decoder.conv_out.conv.bias.mul_(0.5 / spread)
    return vae.eval()


def _ltx(
    name: str,
    pipeline_class: Any,
    vae_id: str,
    vae: Any = None,
    options: dict[str, Any] | None = None,
    **more: Any,
) -> VideoCase:
    transformer = random(
        6,
        LTXVideoTransformer3DModel,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=16,
    )
    pipeline = pipeline_class(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_ltx_vae() if vae is None else vae,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    prompt = {"prompt_embeds": embeddings(1, 4, 16), "prompt_attention_mask": torch.ones(1, 4, dtype=torch.bool)}
    steps = {"num_inference_steps": 2, "guidance_scale": 1.0}
    return VideoCase(name, vae_id, pipeline, prompt | SIZE | steps | more, SIZE if options is None else options)


def ltx_2() -> VideoCase:
    """LTX-2: latents that its pipeline denormalised."""
    vae: Any = random(
        5,
        AutoencoderKLLTX2Video,
        block_out_channels=(8, 8, 8, 8),
        # Each is halved on its way up.
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 4,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    transformer = random(
        6,
        LTX2VideoTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=32,
        rope_double_precision=False,
        rope_type="split",
    )
    connectors = random(
        7,
        LTX2TextConnectors,
        caption_channels=32,
        text_proj_in_factor=2,
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        rope_type="split",
    )
    pipeline = LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_with_statistics(vae),
        audio_vae=_tiny_audio_vae(),
        text_encoder=None,
        tokenizer=None,
        connectors=connectors,
        transformer=transformer,
        vocoder=random(
            9,
            LTX2Vocoder,
            in_channels=16,
            hidden_channels=32,
            out_channels=2,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
            output_sampling_rate=16000,
        ),
    )
    prompt = {"prompt_embeds": embeddings(1, 4, 64), "prompt_attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    plain: dict[str, Any] = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    plain |= {f"audio_{name}": value for name, value in plain.items()}
    plain |= {"spatio_temporal_guidance_blocks": None, "use_cross_timestep": False, "num_inference_steps": 2}
    return VideoCase("ltx-2", "ltx-2", pipeline, prompt | SIZE | plain, needs_vae=True)


def _tiny_audio_vae() -> Any:
    return random(
        8,
        AutoencoderKLLTX2Audio,
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        causality_axis="height",
        mid_block_add_attention=False,
        sample_rate=16000,
        mel_hop_length=160,
        mel_bins=8,
    )
