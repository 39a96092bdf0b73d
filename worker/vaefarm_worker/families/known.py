"""The families that are known: for each class of diffusers how its VAEs are read, decoded and encoded."""

from typing import Final

from vaefarm_shared.errors import ConfigurationError

from ..memory_mode import MemoryMode
from . import batch_norm, mean_std, scale_shift
from .family import Config, Family
from .videos import VIDEO_FAMILIES


def _by_blocks(config: Config) -> int:
    """Each block but the last doubles the size."""
    return int(2 ** (len(config.get("decoder_block_out_channels") or config["block_out_channels"]) - 1))


def _kl_widest(config: Config) -> int:
    """The last block of an AutoencoderKL's decoder gets the channels of the one before it."""
    return int((config.get("decoder_block_out_channels") or config["block_out_channels"])[:2][-1])


def _base_dim(config: Config) -> int:
    return int(config.get("decoder_base_dim") or config["base_dim"])


def _latent_channels(config: Config) -> int:
    return int(config["latent_channels"])


def _z_dim(config: Config) -> int:
    return int(config["z_dim"])


#: What whole processes were seen to take, with the allocator's slack and cuDNN's workspace (2200 elements for 256
#: channels), and the activations alive at a time.
_KL_ELEMENTS: Final = (2200 / 256, 1000 / 256)
#: What strips were counted to take of the largest pictures.
_KL_STRIPS: Final = {MemoryMode.HALF: 391 / 256, MemoryMode.THIRD: 201 / 256}
#: The same of one frame of Wan's decoder: 2700 elements for 96 channels, 1730 counted.
_FRAME_ELEMENTS: Final = (2700 / 96, 1730 / 96)

FAMILIES: Final[dict[str, Family]] = {
    family.class_name: family
    for family in (
        Family(
            "AutoencoderKL",
            *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
            *(_latent_channels, _by_blocks, _kl_widest),
            _KL_ELEMENTS,
            sparing_elements=_KL_STRIPS,
        ),
        Family(
            "AutoencoderTiny",
            *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
            *(_latent_channels, _by_blocks, lambda config: int(config["decoder_block_out_channels"][-1])),
            (400 / 64, 256 / 64),
            sparing_elements={MemoryMode.HALF: 25 / 64},
        ),
        Family(
            "AutoencoderDC",
            *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
            *(_latent_channels, _by_blocks, lambda config: int(config["decoder_block_out_channels"][0])),
            _KL_ELEMENTS,
        ),
        Family(
            "AutoencoderKLHunyuanImage",
            *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
            *(_latent_channels, lambda config: int(config["spatial_compression_ratio"]), _kl_widest),
            _KL_ELEMENTS,
        ),
        Family(
            "AutoencoderKLFlux2",
            *(batch_norm.check_config, batch_norm.denormalise, batch_norm.normalise),
            *(_latent_channels, _by_blocks, _kl_widest),
            _KL_ELEMENTS,
            layouts=("packed", "patchified", "spatial"),
            sparing_elements=_KL_STRIPS,
        ),
        Family(
            "AutoencoderKLQwenImage",
            *(mean_std.check_config, mean_std.denormalise, mean_std.normalise),
            *(_z_dim, lambda config: int(2 ** len(config["temperal_downsample"])), _base_dim),
            _FRAME_ELEMENTS,
            layouts=("packed", "spatial", "frames"),
            has_frames=True,
        ),
        Family(
            "AutoencoderKLQwenImage21",
            *(mean_std.check_config, mean_std.denormalise_by_product, mean_std.normalise_by_quotient),
            *(_z_dim, lambda config: int(config["scale_factor_spatial"]), _base_dim),
            _FRAME_ELEMENTS,
            layouts=("tokens", "spatial", "frames"),
            has_frames=True,
        ),
        *VIDEO_FAMILIES,
    )
}


def family_of(class_name: str) -> Family:
    """The family of a class of diffusers. Raises ConfigurationError, naming the class and those that are known."""
    try:
        return FAMILIES[class_name]
    except KeyError:
        raise ConfigurationError(f"is a {class_name}; this release decodes {', '.join(FAMILIES)}") from None
