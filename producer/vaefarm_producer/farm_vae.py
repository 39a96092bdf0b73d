"""`FarmVAE`: in the place of a pipeline's VAE, with a farm behind it. Needs torch and diffusers.

Its constants change nothing: a scaling factor of 1, a shift of 0, means of 0, deviations of 1. So a pipeline hands on
its latents as they are, and the worker, which has the VAE, scales them by that VAE's own constants. No producer needs
to know them, and none can have them wrong.
"""

import logging
from collections.abc import Callable
from typing import Any, Never, TypeVar, Unpack

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import InvalidOption, JobFailed

from .farm import Farm
from .farm_posterior import FarmPosterior
from .handle import Job
from .submission import JobOptions, check_options

logger = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")


class FarmVaeOptions(JobOptions, total=False):
    """What the jobs of a `FarmVAE` may say; `Farm.submit` explains each."""

    tiling: bool


class FarmVAE(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A VAE without weights: `decode` and `encode` are jobs of a farm, waited for:

        pipe.vae = FarmVAE(farm, "sdxl", dtype=pipe.dtype)
        image = pipe("a cat").images[0]

    Where pictures may come later, `Farm.attach` is better: it does not wait, moves pixels instead of raw tensors, and
    has them bit for bit. `dtype` and `device` follow `.to()`, as any module's.
    """

    def __init__(
        self,
        farm: Farm,
        vae: str,
        *,
        dtype: torch.dtype = torch.float32,
        timeout: float | None = None,
        **options: Unpack[FarmVaeOptions],
    ) -> None:
        """Ask the farm what latents of a VAE look like; nothing else is sent.

        Args:
            vae: A VAE id of the catalogue, of the same family as the VAE whose place this takes.
            dtype: What `decode` and `encode` give; the farm's raw tensors are float16.
            timeout: Seconds for each decode or encode; without limit unless given.
            options: Of each job: reproducible, priority, producer and so on.

        Raises:
            UnknownVae, InvalidOption, FarmUnavailable.
        """
        super().__init__()
        check_options(dict(options), FarmVaeOptions)
        contract = farm.contract(vae)
        if contract.temporal_scale is not None:
            raise InvalidOption(
                f"FarmVAE takes the place of VAEs that make pictures, and {vae!r} makes videos: use"
                f" farm.attach(pipe, vae={vae!r})"
            )
        self._farm = farm
        self._vae = vae
        self._timeout = timeout
        self._options = options
        self.register_to_config(**neutral_config(contract))
        # A parameter without elements has the dtype and device that pipelines ask for. SDXL's look for it here.
        self.post_quant_conv = torch.nn.Module()
        self.post_quant_conv.weight = torch.nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
        if "patchified" in contract.layouts:
            self.bn = torch.nn.BatchNorm2d(4 * contract.latent_channels, affine=False).eval()
        if "frames" in contract.layouts:
            self.temperal_downsample = [False] * levels(contract)

    def __repr__(self) -> str:
        return f"FarmVAE({self._vae!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "FarmVAE":
        """A VAE of the same farm: connections are not copied."""
        copied = FarmVAE(self._farm, self._vae, dtype=self.dtype, timeout=self._timeout, **self._options)
        copied.to(self.device)
        return copied

    @torch.no_grad()
    def decode(self, z: torch.Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        """Decode on the farm, and wait: (n, c, h, w), or one frame of a film, (n, c, 1, h, w).

        Args:
            generator: Left aside, as every VAE that the farm decodes with leaves it.

        Returns:
            DecoderOutput, or a tuple of its tensor: (n, 3 or 4, height, width), a film (n, channels, 1, height, width),
            about [-1, 1], on `z`'s device, in `dtype`, of values that went through float16.

        Raises:
            JobFailed, WaitTimeout, and what `Farm.submit` raises. A job that was not waited for to its end is
            discarded; a failed one is kept, for `vaefarm failed`.
        """
        job = self._farm.submit(z, vae=self._vae, output_type="pt", **self._options)
        tensor = self._outcome(job, job.tensor).torch()
        sample = as_film(tensor, z).to(z.device, self.dtype)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    @torch.no_grad()
    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """A posterior of (n, 3, height, width) in [-1, 1], or of a film of one frame; encoded once it is asked.

        Returns:
            AutoencoderKLOutput, or a tuple of its `latent_dist`, a FarmPosterior.
        """
        posterior = FarmPosterior(x, self._encode)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def _encode(self, x: torch.Tensor, seed: int | None) -> torch.Tensor:
        options: dict[str, Any] = {name: value for name, value in self._options.items() if name != "tiling"}
        job = self._farm.encode(x[:, :, 0] if x.ndim == 5 else x, vae=self._vae, seed=seed, **options)
        latents = self._outcome(job, job.latents).torch()
        return as_film(latents, x).to(x.device, self.dtype)

    def _outcome(self, job: Job, wait: Callable[[float | None], Outcome]) -> Outcome:
        """What came of a job that nobody else knows: it leaves nothing on the farm, unless it failed."""
        try:
            outcome = wait(self._timeout)
        except JobFailed:
            raise
        except BaseException:
            job.discard()
            raise
        job.discard()
        return outcome

    def enable_tiling(self, *_sizes: Any, **_more: Any) -> None:
        """Nothing, and says so: the worker decides. `FarmVAE(..., tiling=True)` allows it tiles."""
        logger.warning("tiles are left to the farm's workers, which take none; FarmVAE(..., tiling=True) allows them")

    def disable_tiling(self) -> None:
        """Nothing: the worker tiles what a job allows it to."""

    def enable_slicing(self) -> None:
        """Nothing, and says so: the worker takes a job's pictures one by one where memory is short."""
        logger.warning("slices are left to the farm's workers, which take pictures one by one where memory is short")

    def disable_slicing(self) -> None:
        """Nothing: see `enable_slicing`."""

    def save_pretrained(self, *_where: Any, **_options: Any) -> Never:
        """Raises InvalidOption: there is nothing to save."""
        raise InvalidOption(
            "FarmVAE has no weights to save; put the pipeline's own VAE back (pipe.vae = ...), or None, and save then"
        )

    @classmethod
    def from_pretrained(cls, *_where: Any, **_options: Any) -> Never:
        """Raises InvalidOption: there is nothing to load."""
        raise InvalidOption("FarmVAE has no weights to load; make one with FarmVAE(farm, VAE_ID)")


def neutral_config(contract: Contract) -> dict[str, Any]:
    """What pipelines read from a VAE's config: its sizes, and constants that change nothing."""
    channels, blocks = contract.latent_channels, (1,) * (levels(contract) + 1)
    # Pipelines of films' VAEs want vectors; Stable Diffusion XL's take a vector for a sign of other latents.
    is_film = "frames" in contract.layouts
    return {
        "latent_channels": channels,
        "z_dim": channels,
        "in_channels": 3,
        "out_channels": contract.picture_channels,
        "block_out_channels": blocks,
        "encoder_block_out_channels": blocks,
        "spatial_compression_ratio": contract.spatial_scale,
        "scale_factor_spatial": contract.spatial_scale,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "latents_mean": [0.0] * channels if is_film else None,
        "latents_std": [1.0] * channels if is_film else None,
        "batch_norm_eps": 0.0,
        "force_upcast": False,
    }


def levels(contract: Contract) -> int:
    """How often the VAE halves a picture's sides."""
    return contract.spatial_scale.bit_length() - 1


def as_film(tensor: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) -> (n, c, 1, h, w) where what was given is a film."""
    return tensor.unsqueeze(2) if given.ndim == 5 else tensor
