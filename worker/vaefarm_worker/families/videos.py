"""The families of VAEs that make videos."""

from collections.abc import Callable
from math import prod
from typing import Final

from vaefarm_shared.job import DecodeArgument

from ..by_frames import FrameTiles
from ..memory_mode import MemoryMode
from . import buffers, mean_std, scale_shift, told
from .family import Config, Family
from .geometry import base_dim, by_blocks, last_block, number

#: Elements for each pixel of a frame of Wan's decoder: 2700 for 96 channels as whole processes were seen to take, 1730
#: counted. Four frames are decoded at a time, the others wait as pixels, in two copies while one is laid behind the
#: other. Planned for a video of 17 frames, at least for one of 241.
_WAN_ELEMENTS: Final = (4 * 2700 / 17 / 96, (4 * 1730 / 241 + 6) / 96)


def _counted(most: float, least: float, widest: int) -> tuple[float, float]:
    """Elements of a decoder: `most` were counted for a pixel of a frame of a short video, `least` of a long one,
    in real sizes on torch's meta device; planned with the slack that Wan's took beside what was counted."""
    return most * 2700 / 1730 / widest, least / widest


#: HunyuanVideo: 17 frames at a time, of 17 and of 241.
_HUNYUAN_ELEMENTS: Final = _counted(1169, 17 * 1169 / 241 + 6, 256)
#: HunyuanVideo 1.5 and Mochi: all frames at a time. CogVideoX: nine, of 17 and of 241.
_HUNYUAN_15_ELEMENTS: Final = _counted(898, 898, 128)
_MOCHI_ELEMENTS: Final = _counted(846, 689, 128)
#: For a pixel of one frame, of 129 that are decoded frame by frame: what is kept, and three or five for each as pixels.
_HUNYUAN_15_SPARING: Final = {MemoryMode.FRAME_BY_FRAME: 7330 / 128}
_MOCHI_SPARING: Final = {MemoryMode.FRAME_BY_FRAME: 7920 / 128}
_COGVIDEOX_ELEMENTS: Final = _counted(1346, 96, 256)
#: LTX-Video and LTX-2: all frames at a time, in blocks of 4 x 4 pixels until the end.
_LTX_ELEMENTS: Final = _counted(51, 50, 8)
_LTX_2_ELEMENTS: Final = _counted(46, 43, 8)
#: 25 frames rather than all.
_LTX_TILES: Final = FrameTiles(4, 2)
#: Stable Video Diffusion: all frames at a time, or as few as one of 25.
_SVD_ELEMENTS: Final = _counted(1280, 1280 / 25 + 6, 256)


def _ltx_widest(config: Config) -> int:
    """Channels of the last block, by the pixels of one of its places."""
    return max(
        1, int(config["decoder_block_out_channels"][0] // config["upsample_factor"][0] // config["patch_size"] ** 2)
    )


def _ltx_scale(ratio: str, patch: str) -> Callable[[Config], int]:
    """What reads a ratio of the config, which follows from patches and blocks where it is not given."""

    def scale(config: Config) -> int:
        doubles = config["spatio_temporal_scaling"]
        if isinstance(doubles, bool):
            doubles = [doubles] * (len(config["layers_per_block"]) - 1)
        return int(config.get(ratio) or config[patch] * 2 ** sum(doubles))

    return scale


def _ltx_options(config: Config) -> tuple[DecodeArgument, ...]:
    if config["timestep_conditioning"]:
        return "decode_timestep", "decode_noise_scale", "seed"
    return ("seed",) if any(config["decoder_inject_noise"]) else ()


VIDEO_FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "AutoencoderKLWan",
        *(mean_std.check_config, mean_std.denormalise, mean_std.normalise),
        *(number("z_dim"), number("scale_factor_spatial")),
        base_dim,
        _WAN_ELEMENTS,
        layouts=("video",),
        temporal_scale=number("scale_factor_temporal"),
    ),
    Family(
        "AutoencoderKLHunyuanVideo",
        *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
        *(number("latent_channels"), number("spatial_compression_ratio"), last_block),
        _HUNYUAN_ELEMENTS,
        layouts=("video",),
        # Nine frames rather than seventeen.
        frame_tiles=FrameTiles(3, 2),
        temporal_scale=number("temporal_compression_ratio"),
    ),
    Family(
        "AutoencoderKLHunyuanVideo15",
        *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
        *(number("latent_channels"), number("spatial_compression_ratio")),
        lambda config: int(config["block_out_channels"][0]),
        _HUNYUAN_15_ELEMENTS,
        layouts=("video",),
        # Its attention's mask fits no two.
        one_at_a_time=True,
        sparing_elements=_HUNYUAN_15_SPARING,
        temporal_scale=number("temporal_compression_ratio"),
    ),
    Family(
        "AutoencoderKLCogVideoX",
        *(scale_shift.check_config, scale_shift.denormalise_by_product, scale_shift.normalise),
        *(number("latent_channels"), by_blocks, last_block),
        _COGVIDEOX_ELEMENTS,
        layouts=("frames_first",),
        temporal_scale=number("temporal_compression_ratio"),
    ),
    Family(
        "AutoencoderKLMochi",
        *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
        *(number("latent_channels"), lambda config: prod(config["spatial_expansions"])),
        lambda config: int(config["decoder_block_out_channels"][0]),
        _MOCHI_ELEMENTS,
        layouts=("video",),
        sparing_elements=_MOCHI_SPARING,
        temporal_scale=lambda config: prod(config["temporal_expansions"]),
    ),
    Family(
        "AutoencoderKLLTXVideo",
        *(buffers.check_config, buffers.denormalise, buffers.normalise),
        *(number("latent_channels"), _ltx_scale("spatial_compression_ratio", "patch_size")),
        _ltx_widest,
        _LTX_ELEMENTS,
        layouts=("video_tokens", "video"),
        frame_tiles=_LTX_TILES,
        temporal_scale=_ltx_scale("temporal_compression_ratio", "patch_size_t"),
        decode_arguments=_ltx_options,
        told=told.with_timestep,
        casts_late=True,
    ),
    Family(
        "AutoencoderKLLTX2Video",
        *(buffers.check_denormalised, buffers.denormalise, buffers.normalise),
        *(number("latent_channels"), _ltx_scale("spatial_compression_ratio", "patch_size")),
        _ltx_widest,
        _LTX_2_ELEMENTS,
        layouts=("video",),
        frame_tiles=_LTX_TILES,
        temporal_scale=_ltx_scale("temporal_compression_ratio", "patch_size_t"),
        told=told.with_timestep,
        casts_late=True,
        denormalised=True,
    ),
    Family(
        "AutoencoderKLTemporalDecoder",
        *(scale_shift.check_config, scale_shift.denormalise_by_product, scale_shift.normalise),
        *(number("latent_channels"), by_blocks, last_block),
        _SVD_ELEMENTS,
        layouts=("frames_first",),
        frame_tiles=FrameTiles(4, 0),
        temporal_scale=lambda _config: 1,
        decode_arguments=lambda _config: ("decode_chunk_size",),
        told=told.in_chunks,
    ),
)
