"""A family: the scheme of one class of diffusers, its geometry and what a decode takes of memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.job import DecodeArgument, JobSpec, Layout

from ..by_frames import FrameTiles
from ..memory import PixelCost
from ..memory_mode import MemoryMode
from . import packing, scale_shift

Config = Mapping[str, Any]

#: What makes (n, 3 or 4, height, width) of a VAE and of what its `decode` takes.
Network = Callable[[Any, torch.Tensor], torch.Tensor]

#: The same for a VAE whose `decode` takes more than that, which the job says; in stretches of frames where given.
Told = Callable[[Any, torch.Tensor, JobSpec, FrameTiles | None], torch.Tensor]


def whole(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The VAE's own decode."""
    return vae.decode(latents, return_dict=False)[0]  # type: ignore[no-any-return]


def _none(_config: Config) -> tuple[DecodeArgument, ...]:
    return ()


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
    #: What a job may tell its decode, and the decode that is told.
    decode_arguments: Callable[[Config], tuple[DecodeArgument, ...]] = _none
    told: Told | None = None
    #: Whether its pipelines denormalise latents in these' own dtype, and cast what comes of it.
    casts_late: bool = False
    #: Whether its pipelines return latents that are the decoder's input already.
    denormalised: bool = False
    #: Whether its class decodes one video at a time alone.
    one_at_a_time: bool = False
    #: The stretches of frames in which a video may be decoded where somebody allows tiles.
    frame_tiles: FrameTiles | None = None
    #: Elements as above, at least, for the other modes in which it may be decoded; by a pixel of one frame where memory
    #: goes by those.
    sparing_elements: Mapping[MemoryMode, float] = field(default_factory=dict)

    def pixel_cost(self, config: Config, itemsize: int) -> PixelCost:
        """What an output pixel takes of memory in a decode whose elements have `itemsize` bytes."""
        (planned, least), widest = self.elements, self.widest(config)
        each = widest * itemsize
        sparing = {mode: elements * each for mode, elements in self.sparing_elements.items()}
        return PixelCost(planned * each, least * each, widest, sparing)

    @property
    def tiled_modes(self) -> tuple[MemoryMode, ...]:
        """The modes that change what is decoded, the plainest first."""
        of_frames = () if self.frame_tiles is None else (MemoryMode.FRAME_TILES,)
        return (*of_frames, MemoryMode.TILED)

    def decode(
        self, vae: Any, latents: torch.Tensor, spec: JobSpec, network: Network, *, in_frame_tiles: bool = False
    ) -> torch.Tensor:
        """Latents in the job's layout, in the VAE's dtype -> (n, 3 or 4, height, width) in [-1, 1].

        Of videos (n, 3 or 4, frames, height, width). Where the family casts late, latents may have another dtype.

        VAEs for videos keep what they decoded last on their modules (Wan: the features of the frames before) and their
        switches too: one decode at a time for each module, as the one thread has it that calls this.

        Args:
            network: `whole`, or what gives the same; of a family whose decode is told more, that takes its place.
            in_frame_tiles: Of a family that has `frame_tiles`, whether to decode in such.

        Raises:
            OutOfMemory: the video is no longer than one of those.
        """
        tiles = self.frame_tiles if in_frame_tiles else None
        scale = self.scale(vae.config)
        if self.temporal_scale is None:
            grid = packing.to_spatial(latents, spec.layout, spec.height, spec.width, scale)
        else:
            grid = packing.to_video(latents, spec, scale, self.temporal_scale(vae.config))
        if spec.scaling_factor is not None:
            grid = scale_shift.divide(grid, spec.scaling_factor, spec.shift_factor)
        elif spec.normalised:
            grid = self.denormalise(grid, vae)
        if self.has_frames:
            return network(vae, grid.unsqueeze(2))[:, :, 0]
        grid = grid.to(vae.dtype) if self.casts_late else grid
        if self.told is not None:
            return self.told(vae, grid, spec, tiles)
        if tiles is not None and self.temporal_scale is not None:
            return tiles.decode(partial(network, vae), grid, self.temporal_scale(vae.config))
        parts = torch.split(grid, 1) if self.one_at_a_time else [grid]
        made = [network(vae, part) for part in parts]
        return made[0] if len(made) == 1 else torch.cat(made)

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
    if isinstance(patch := config.get("patch_size"), int) and found % patch**2 == 0:
        # Wan 2.2's decoder gives blocks of 2 x 2 pixels behind one another. LTX-Video's says what comes of its own.
        found //= patch**2
    if found == 3:
        return 3
    if found == 4:
        return 4
    raise ConfigurationError(f"its pictures have {found} channels; expected 3 (RGB) or 4 (RGBA)")
