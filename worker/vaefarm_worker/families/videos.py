"""The families of VAEs that make videos."""

from collections.abc import Callable
from typing import Final

from . import mean_std, scale_shift
from .family import Config, Family

#: Elements for each pixel of a frame of Wan's decoder: 2700 for 96 channels as whole processes were seen to take, 1730
#: counted. Four frames are decoded at a time, the others wait as pixels, in two copies while one is laid behind the
#: other. Planned for a video of 17 frames, at least for one of 241.
_WAN_ELEMENTS: Final = (4 * 2700 / 17 / 96, (4 * 1730 / 241 + 6) / 96)


def _number(name: str) -> Callable[[Config], int]:
    """What reads a number of the config."""
    return lambda config: int(config[name])


def _last_block(config: Config) -> int:
    """The last block of the decoder gets the channels of the one before it."""
    return int(config["block_out_channels"][:2][-1])


VIDEO_FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "AutoencoderKLWan",
        *(mean_std.check_config, mean_std.denormalise, mean_std.normalise),
        *(_number("z_dim"), _number("scale_factor_spatial")),
        lambda config: int(config.get("decoder_base_dim") or config["base_dim"]),
        _WAN_ELEMENTS,
        layouts=("video",),
        temporal_scale=_number("scale_factor_temporal"),
    ),
    Family(
        "AutoencoderKLHunyuanVideo",
        *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
        *(_number("latent_channels"), _number("spatial_compression_ratio"), _last_block),
        _WAN_ELEMENTS,
        layouts=("video",),
        temporal_scale=_number("temporal_compression_ratio"),
    ),
)
