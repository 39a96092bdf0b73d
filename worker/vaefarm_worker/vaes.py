"""Loading VAEs: from a local folder or Hugging Face, safetensors only, checked against the catalogue's contract."""

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from huggingface_hub.errors import GatedRepoError

from vaefarm_shared.catalogue import Contract, VaeEntry
from vaefarm_shared.errors import ConfigurationError

from .decoder import ServedVae
from .families import switches
from .families.family import Family, picture_channels
from .families.known import family_of
from .fast import FastDecoder, fast_decoder
from .fast.compiled import Size
from .memory import PixelCost
from .pulling import gated
from .sources import CONFIG, folder

logger = logging.getLogger(__name__)

#: How the revision of weights begins that no repository names.
DIGEST: Final[str] = "sha256:"


@dataclass(frozen=True, slots=True)
class DescribedVae:
    """What a VAE's config tells of it, before its weights are read."""

    entry: VaeEntry
    served: ServedVae
    family: Family
    #: What its weights are read in, and what it decodes in: wider where the first would overflow.
    weights_dtype: torch.dtype
    dtype: torch.dtype
    cost: PixelCost

    @property
    def id(self) -> str:
        """The entry's id."""
        return self.entry.id


@dataclass(frozen=True, slots=True)
class LoadedVae:
    """A VAE with its weights, ready to decode."""

    described: DescribedVae
    module: Any
    #: What decodes jobs that need not be reproducible.
    fast: FastDecoder | None = None

    @property
    def family(self) -> Family:
        """How it decodes."""
        return self.described.family

    @property
    def dtype(self) -> torch.dtype:
        """What it decodes in."""
        return self.described.dtype

    @property
    def weight_bytes(self) -> int:
        """Bytes of its parameters and buffers, and of what only its fast decoder has."""
        modules = [self.module] if self.fast is None else [self.module, self.fast.module]
        held = {id(one): one for module in modules for one in (*module.parameters(), *module.buffers())}
        return sum(one.numel() * one.element_size() for one in held.values())

    def moved_to(self, device: torch.device) -> "LoadedVae":
        """The same on a device."""
        self.module.to(device)
        if self.fast is not None:
            self.fast.module.to(device)
        return self


def describe_vae(entry: VaeEntry, device: torch.device, decode_only: bool = False) -> DescribedVae:
    """Read an entry's config. `decode_only`: its encoder will not be kept.

    Raises:
        ConfigurationError: not found, not allowed, a class that is not known, or a config that contradicts the
            contract; one line that names the VAE.
    """
    config, revision = _read_config(entry)
    try:
        family = family_of(str(config.get("_class_name")))
    except ConfigurationError as error:
        raise ConfigurationError(f"VAE {entry.id!r} ({entry.origin}) {error}") from error
    config = _defaults(getattr(diffusers, family.class_name)) | config
    contract = check_contract(entry, config, family)
    dtype = weights_dtype = getattr(torch, entry.cpu_dtype if device.type == "cpu" else entry.dtype)
    if entry.respects_force_upcast and config.get("force_upcast", True) and dtype == torch.float16:
        # As StableDiffusionXLPipeline does: such a VAE overflows in float16.
        dtype = torch.float32
    cost = family.pixel_cost(config, dtype.itemsize)
    return DescribedVae(
        entry, ServedVae(entry.id, contract, revision, not decode_only), family, weights_dtype, dtype, cost
    )


def read_vae(described: DescribedVae, wanted: Collection[str] = (), sizes: Sequence[Size] = ()) -> LoadedVae:
    """Read a VAE's weights into host memory, in its dtype.

    Args:
        wanted: Switches for a fast decoder beside its own, as far as its structure allows them.
        sizes: Heights and widths of pictures for which that is compiled.

    Raises:
        ConfigurationError: not found, not allowed, or no safetensors; one line that names the VAE.
    """
    entry = described.entry
    source, options = _location(entry)
    if entry.source is not None and not described.served.revision.startswith(DIGEST):
        # The commit whose config was read: a branch may have moved since.
        options["revision"] = described.served.revision
    try:
        # In float32, to be narrowed below: for `torch_dtype` diffusers sets the whole process' default dtype meanwhile,
        # and other threads decode.
        vae = getattr(diffusers, described.family.class_name).from_pretrained(
            source, use_safetensors=True, variant=entry.variant, **options
        )
    except Exception as error:
        raise _unloadable(entry, error) from error
    if not described.served.encodes:
        drop_encoder(vae)
    # Its weights keep requires_grad, as a pipeline's: torch.matmul multiplies by another kernel where they do not.
    vae.eval()
    if described.dtype != described.weights_dtype:
        # Not diffusers' own `to`, which warns of a cast after the load.
        torch.nn.Module.to(vae, described.weights_dtype)
    torch.nn.Module.to(vae, torch.float32)
    # Here: what is folded is summed in float32, and rounded once.
    scale = described.served.contract.spatial_scale
    grids = [(height // scale, width // scale) for height, width in sizes]
    fast = fast_decoder(vae, wanted, grids) if wanted or grids else None
    torch.nn.Module.to(vae, described.dtype)
    if fast is not None:
        fast.module.to(described.dtype)
    switches.bound_tiles(vae, scale)
    return LoadedVae(described, vae, fast)


def drop_encoder(vae: Any) -> None:
    """Free what no decode needs."""
    for name in ("encoder", "quant_conv"):
        if getattr(vae, name, None) is not None:
            delattr(vae, name)


def check_contract(entry: VaeEntry, config: dict[str, Any], family: Family) -> Contract:
    """The contract of a VAE by its own config.

    Raises:
        ConfigurationError: the catalogue says otherwise: serving it would decode other latents than were checked.
    """
    try:
        family.check_config(config)
        channels, scale, colours = family.channels(config), family.scale(config), picture_channels(config)
        frames = None if family.temporal_scale is None else family.temporal_scale(config)
        told = family.decode_arguments(config)
    except (ConfigurationError, KeyError) as error:
        raise ConfigurationError(f"VAE {entry.id!r} ({entry.origin}) cannot be served: {error}") from error
    for name, said, found in (
        ("latent_channels", entry.latent_channels, channels),
        ("spatial_scale", entry.spatial_scale, scale),
        ("picture_channels", entry.picture_channels, colours),
        ("temporal_scale", entry.temporal_scale, frames),
        ("decode_arguments", entry.decode_arguments, told),
    ):
        if said is not None and said != found:
            raise ConfigurationError(
                f"VAE {entry.id!r} ({entry.origin}) has {name} {found}; the catalogue says {said}: it is not served"
            )
    check_factors(entry, config)
    limits: dict[str, Any] = {"layouts": family.layouts, "denormalised": family.denormalised, **entry.limits}
    return Contract(
        latent_channels=channels,
        spatial_scale=scale,
        picture_channels=colours,
        temporal_scale=frames,
        decode_arguments=told,
        **limits,
    )


def check_factors(entry: VaeEntry, config: dict[str, Any]) -> None:
    """Raise ConfigurationError where the catalogue tells endpoints to scale otherwise than a VAE's own config does."""
    if entry.scaling_factor is None:
        return
    said = (entry.scaling_factor, entry.shift_factor or 0.0)
    found = (config.get("scaling_factor"), config.get("shift_factor") or 0.0)
    vectors = config.get("latents_mean") is not None
    if said != found or vectors:
        raise ConfigurationError(
            f"VAE {entry.id!r} ({entry.origin}) has scaling_factor {found[0]} and shift_factor {found[1]}"
            f"{', and latents_mean' if vectors else ''}; the catalogue says {said[0]} and {said[1]}: it is not served"
        )


def _defaults(vae_class: Any) -> dict[str, Any]:
    """What a config.json may leave out: the arguments' defaults, as diffusers fills them in."""
    parameters = signature(vae_class.__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def _location(entry: VaeEntry) -> tuple[str, dict[str, Any]]:
    """Where diffusers finds the entry: a folder or a repository, and the options that go with it."""
    place = folder(entry)
    if place is not None:
        return str(place), {"local_files_only": True}
    options: dict[str, Any] = {} if entry.subfolder is None else {"subfolder": entry.subfolder}
    return str(entry.source), options | {"revision": entry.revision}


def _read_config(entry: VaeEntry) -> tuple[dict[str, Any], str]:
    """A VAE's config.json, and what tells its weights apart from others."""
    source, options = _location(entry)
    if entry.path is not None and not Path(source, CONFIG).is_file():
        raise ConfigurationError(f"VAE {entry.id!r}: {source} holds no {CONFIG}; expected a VAE saved by diffusers")
    try:
        config, _, commit = diffusers.AutoencoderKL.load_config(
            source, return_unused_kwargs=True, return_commit_hash=True, **options
        )
    except Exception as error:
        raise _unloadable(entry, error) from error
    return dict(config), commit or _digest(Path(source))


def _digest(place: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{DIGEST}{digest.hexdigest()[:12]}"


def _unloadable(entry: VaeEntry, error: Exception) -> ConfigurationError:
    # diffusers says of a gated config.json that there is no such repository, while it handles the error that says more.
    if any(isinstance(one, GatedRepoError) for one in (error, error.__cause__, error.__context__)):
        return gated(entry)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ConfigurationError(f"VAE {entry.id!r} ({entry.origin}) cannot be loaded: {reason}")
