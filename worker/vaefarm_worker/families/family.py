"""The families: for each class of diffusers its scheme, its geometry and what a decode takes of memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.job import JobSpec, Layout

from ..memory import PixelCost
from ..memory_mode import MemoryMode
from . import batch_norm, mean_std, packing, scale_shift

Config = Mapping[str, Any]

#: What makes (n, 3 or 4, height, width) of a VAE and of what its `decode` takes.
Network = Callable[[Any, torch.Tensor], torch.Tensor]


def whole(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The VAE's own decode."""
    return vae.decode(latents, return_dict=False)[0]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Family:
    """How VAEs of one class are read, decode and encode."""

    class_name: str
    #: Raises ConfigurationError for constants that the scheme does not know.
    check_config: Callable[[Config], None]
    #: (n, c, h, w) latents and the VAE -> the decoder's input of the same shape.
    denormalise: Callable[[torch.Tensor, Any], torch.Tensor]
    #: The reverse: (n, c, h, w) of the encoder and the VAE -> latents as a pipeline holds them.
    normalise: Callable[[torch.Tensor, Any], torch.Tensor]
    #: Channels of the latents, pixels per latent, and channels of the widest activation at the picture's own size.
    channels: Callable[[Config], int]
    scale: Callable[[Config], int]
    widest: Callable[[Config], int]
    #: Elements for each output pixel and channel of the widest activation: planned, and at least.
    elements: tuple[float, float]
    #: Layouts of latents that pipelines of this class hand out, unless the catalogue says otherwise.
    layouts: tuple[Layout, ...] = ("spatial",)
    #: Whether the VAE decodes films: (n, c, 1, h, w) in, (n, c, 1, height, width) out.
    has_frames: bool = False
    #: Frames a latent, of a VAE that makes videos: (n, c, t, h, w) in, (n, c, frames, height, width) out.
    temporal_scale: Callable[[Config], int] | None = None
    #: Elements as above, at least, for the other modes in which it may be decoded.
    sparing_elements: Mapping[MemoryMode, float] = field(default_factory=dict)

    def pixel_cost(self, config: Config, itemsize: int) -> PixelCost:
        """What an output pixel takes of memory in a decode whose elements have `itemsize` bytes."""
        (planned, least), widest = self.elements, self.widest(config)
        each = widest * itemsize
        sparing = {mode: elements * each for mode, elements in self.sparing_elements.items()}
        return PixelCost(planned * each, least * each, widest, sparing)

    def decode(self, vae: Any, latents: torch.Tensor, spec: JobSpec, network: Network) -> torch.Tensor:
        """Latents in the job's layout, in the VAE's dtype -> (n, 3 or 4, height, width) in [-1, 1].

        Of videos (n, 3 or 4, frames, height, width).

        Args:
            network: `whole`, or what gives the same.
        """
        scale = self.scale(vae.config)
        grid = packing.to_spatial(latents, spec.layout, spec.height, spec.width, scale)
        if spec.scaling_factor is not None:
            grid = scale_shift.divide(grid, spec.scaling_factor, spec.shift_factor)
        elif spec.normalised:
            grid = self.denormalise(grid, vae)
        if self.has_frames:
            return network(vae, grid.unsqueeze(2))[:, :, 0]
        return network(vae, grid)

    def encode(self, vae: Any, images: torch.Tensor, specs: Sequence[JobSpec]) -> torch.Tensor:
        """(n, 3, height, width) in [-1, 1], in the VAE's dtype -> (n, c, h, w) as an img2img pipeline holds them.

        Args:
            specs: The jobs whose images lie one behind the other. Each says the seed with which its posterior is
                sampled, None for its mode: as diffusers' retrieve_latents, with a generator of the CPU; a VAE without a
                posterior (AutoencoderTiny, AutoencoderDC) leaves seeds aside. How latents are scaled the first says
                for all.
        """
        encoded = vae.encode(images.unsqueeze(2) if self.has_frames else images, return_dict=False)[0]
        latents = encoded if isinstance(encoded, torch.Tensor) else _chosen(encoded, specs)
        if self.has_frames:
            latents = latents[:, :, 0]
        if specs[0].scaling_factor is not None:
            return scale_shift.multiply(latents, specs[0].scaling_factor, specs[0].shift_factor)
        return self.normalise(latents, vae) if specs[0].normalised else latents


def _chosen(posterior: Any, specs: Sequence[JobSpec]) -> torch.Tensor:
    parts, start = [], 0
    for spec in specs:
        part = DiagonalGaussianDistribution(posterior.parameters[start : start + spec.count])
        parts.append(part.mode() if spec.seed is None else part.sample(torch.Generator("cpu").manual_seed(spec.seed)))
        start += spec.count
    return torch.cat(parts)


def picture_channels(config: Config) -> Literal[3, 4]:
    """3 for RGB, 4 for RGBA. Raises ConfigurationError for another number of channels."""
    found = config.get("out_channels") or config.get("input_channels") or config.get("in_channels") or 3
    if isinstance(patch := config.get("patch_size"), int):
        # Wan 2.2's decoder gives blocks of 2 x 2 pixels behind one another.
        found //= patch**2
    if found == 3:
        return 3
    if found == 4:
        return 4
    raise ConfigurationError(f"its pictures have {found} channels; expected 3 (RGB) or 4 (RGBA)")


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
#: The same for each frame of a video: four are decoded at a time, the others wait as pixels, in two copies while one is
#: laid behind the other. Planned for a video of 17 frames, at least for one of 241.
_VIDEO_ELEMENTS: Final = (4 * 2700 / 17 / 96, (4 * 1730 / 241 + 6) / 96)

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
        Family(
            "AutoencoderKLWan",
            *(mean_std.check_config, mean_std.denormalise, mean_std.normalise),
            *(_z_dim, lambda config: int(config["scale_factor_spatial"]), _base_dim),
            _VIDEO_ELEMENTS,
            layouts=("video",),
            temporal_scale=lambda config: int(config["scale_factor_temporal"]),
        ),
    )
}


def family_of(class_name: str) -> Family:
    """The family of a class of diffusers. Raises ConfigurationError, naming the class and those that are known."""
    try:
        return FAMILIES[class_name]
    except KeyError:
        raise ConfigurationError(f"is a {class_name}; this release decodes {', '.join(FAMILIES)}") from None
