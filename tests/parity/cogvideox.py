"""CogVideoX, whose latents have their frames before their channels."""

from typing import Any

from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from tests.parity.case import embeddings, random, vivid
from tests.parity.videos import VideoCase


def cogvideox() -> VideoCase:
    """CogVideoX: five latent frames, three and then two at a time."""
    return _cogvideox("cogvideox", "cogvideox-2b", 17, attention_head_dim=8)


def cogvideox_of_pairs() -> VideoCase:
    """The same of an even number of latent frames, of which each becomes four."""
    return _cogvideox("cogvideox-even", "cogvideox-2b", 16, attention_head_dim=8)


def cogvideox_1_5() -> VideoCase:
    """CogVideoX 1.5: three latent frames, and a fourth in front of them that its pipeline adds and drops."""
    rotary = {"patch_size_t": 2, "use_rotary_positional_embeddings": True, "patch_bias": False, "sample_frames": 9}
    return _cogvideox("cogvideox-1.5", "cogvideox-1-5", 9, {"num_frames": 9}, attention_head_dim=16, **rotary)


def _cogvideox(
    name: str, vae_id: str, num_frames: int, options: dict[str, Any] | None = None, **config: Any
) -> VideoCase:
    vae: Any = random(
        5,
        AutoencoderKLCogVideoX,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
    )
    shape = {"sample_width": 4, "sample_height": 6, "sample_frames": 17}
    transformer = random(
        6,
        CogVideoXTransformer3DModel,
        num_attention_heads=2,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1,
        max_text_seq_length=4,
        **(shape | config),
    )
    pipeline = CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vivid(vae, vae.decoder.conv_out.conv, 1, 16, 2, 8, 8),
        transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(),
    )
    arguments = {"prompt_embeds": embeddings(1, 4, 16), "num_frames": num_frames, "height": 48, "width": 32}
    steps = {"num_inference_steps": 2, "guidance_scale": 1.0}
    return VideoCase(name, vae_id, pipeline, arguments | steps, options or {})
