"""The families that are known: for each class of diffusers how its VAEs are read, decoded and encoded."""

from typing import Final

from vaefarm_shared.errors import ConfigurationError

from ..memory_mode import MemoryMode
from . import batch_norm, mean_std, scale_shift
from .family import Family
from .geometry import base_dim, by_blocks, last_block, number
from .videos import VIDEO_FAMILIES

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
            *(number("latent_channels"), by_blocks, last_block),
            _KL_ELEMENTS,
            sparing_elements=_KL_STRIPS,
        ),
        Family(
            "AutoencoderTiny",
            *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
            *(number("latent_channels"), by_blocks, lambda config: int(config["decoder_block_out_channels"][-1])),
            (400 / 64, 256 / 64),
            sparing_elements={MemoryMode.HALF: 25 / 64},
        ),
        Family(
            "AutoencoderDC",
            *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
            *(number("latent_channels"), by_blocks, lambda config: int(config["decoder_block_out_channels"][0])),
            _KL_ELEMENTS,
        ),
        Family(
            "AutoencoderKLHunyuanImage",
            *(scale_shift.check_config, scale_shift.denormalise, scale_shift.normalise),
            *(number("latent_channels"), number("spatial_compression_ratio"), last_block),
            _KL_ELEMENTS,
        ),
        Family(
            "AutoencoderKLFlux2",
            *(batch_norm.check_config, batch_norm.denormalise, batch_norm.normalise),
            *(number("latent_channels"), by_blocks, last_block),
            _KL_ELEMENTS,
            layouts=("packed", "patchified", "spatial"),
            sparing_elements=_KL_STRIPS,
        ),
        Family(
            "AutoencoderKLQwenImage",
            *(mean_std.check_config, mean_std.denormalise, mean_std.normalise),
            *(number("z_dim"), lambda config: int(2 ** len(config["temperal_downsample"])), base_dim),
            _FRAME_ELEMENTS,
            layouts=("packed", "spatial", "frames"),
            has_frames=True,
        ),
        Family(
            "AutoencoderKLQwenImage21",
            *(mean_std.check_config, mean_std.denormalise_by_product, mean_std.normalise_by_quotient),
            *(number("z_dim"), number("scale_factor_spatial"), base_dim),
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
