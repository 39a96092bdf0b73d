"""Pipelines that make videos."""

import warnings
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tests.parity.case import Case, embeddings, random, vivid

#: With which pipelines are called.
SEED: Final[int] = 7


@dataclass(frozen=True)
class VideoCase(Case):
    """A pipeline whose pictures are frames: (frames, height, width, 3) uint8 of each video."""

    def pictures(self) -> list[np.ndarray]:
        """What `output_type="np"` gives, as VaeImageProcessor.numpy_to_pil rounds it."""
        return [(video * 255).round().astype(np.uint8) for video in self.images("np")]

    def images(self, output_type: str, **more: Any) -> Any:
        """What the pipeline returns as its frames."""
        self.pipeline.set_progress_bar_config(disable=True)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # Mochi's asks for float32, which torch does without.
            warnings.filterwarnings("ignore", "In CPU autocast")
            # LTX-Video 0.9.1's decoder draws from the one generator of all.
            torch.manual_seed(SEED)
            generator = torch.Generator().manual_seed(SEED)
            return self.pipeline(**self.arguments, generator=generator, output_type=output_type, **more).frames

    @property
    def constants(self) -> list[str]:
        """As of pictures; and those among the weights."""
        return [*super().constants, "buffers"] if _has_buffers(self.vae) else super().constants

    def without(self, constant: str) -> "VideoCase":
        """The same case where that constant leaves latents as they are."""
        if constant != "buffers":
            made = super().without(constant)
            assert isinstance(made, VideoCase)
            if constant == "scaling_factor" and hasattr(made.pipeline, "vae_scaling_factor_image"):
                # CogVideoX's reads it when it is made.
                made.pipeline.vae_scaling_factor_image = made.vae.config.scaling_factor
            return made
        pipeline = deepcopy(self.pipeline)
        pipeline.vae.latents_mean.zero_()
        pipeline.vae.latents_std.fill_(1)
        return replace(self, pipeline=pipeline)


def _has_buffers(vae: Any) -> bool:
    return "latents_std" in dict(vae.named_buffers())


def tiny_wan_vae(**config: Any) -> Any:
    """A small AutoencoderKLWan: the factors of the real ones, 8 in space and 4 in time."""
    vae: Any = random(
        5, AutoencoderKLWan, base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1, attn_scales=[], **config
    )
    return vivid(vae, vae.decoder.conv_out, 1, vae.config.z_dim, 2, 8, 8)


def wan_arguments(**more: Any) -> dict[str, Any]:
    """Five frames, two steps, no guidance."""
    arguments = {"prompt_embeds": embeddings(1, 4, 16), "num_frames": 5, "height": 48, "width": 32}
    return arguments | {"num_inference_steps": 2, "guidance_scale": 1.0} | more


def wan() -> VideoCase:
    """Wan 2.1."""
    return _wan("wan", "wan", tiny_wan_vae(), wan_arguments())


def wan_of_two_videos() -> VideoCase:
    """Two videos of one call, of nine frames."""
    return _wan("wan-two", "wan", tiny_wan_vae(), wan_arguments(num_videos_per_prompt=2, num_frames=9))


def wan_2_2() -> VideoCase:
    """Wan 2.2 TI2V-5B: blocks of 2 x 2 pixels in the decoder's channels, and 48 channels of latents."""
    statistics = {
        "latents_mean": torch.linspace(-1, 1, 48).tolist(),
        "latents_std": torch.linspace(0.5, 2, 48).tolist(),
    }
    vae = tiny_wan_vae(
        z_dim=48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        decoder_base_dim=8,
        **statistics,
    )
    return _wan("wan-2.2", "wan2-2-5b", vae, wan_arguments(height=64), expand_timesteps=True)


def _wan(name: str, vae_id: str, vae: Any, arguments: dict[str, Any], **options: Any) -> VideoCase:
    channels = vae.config.z_dim
    transformer = random(
        6,
        WanTransformer3DModel,
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    pipeline = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=transformer,
        **options,
    )
    # Without its VAE the pipeline takes 8 pixels a latent, whatever the VAE has.
    return VideoCase(name, vae_id, pipeline, arguments, {"fps": 16}, needs_vae=vae.config.scale_factor_spatial != 8)
