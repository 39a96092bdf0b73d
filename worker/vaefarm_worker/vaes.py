"""Loading VAEs: from a local folder or Hugging Face, safetensors only, checked against the catalogue's contract."""

import hashlib
import logging
from dataclasses import dataclass
from importlib.resources import files
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
from .families.family import Family, family_of, picture_channels
from .memory import PixelCost

logger = logging.getLogger(__name__)

#: How a path of the catalogue names a folder that ships with this package.
BUILTIN: Final[str] = "builtin:"


@dataclass(frozen=True, slots=True)
class LoadedVae:
    """A VAE on its device, ready to decode."""

    served: ServedVae
    family: Family
    module: Any
    dtype: torch.dtype
    cost: PixelCost


def load_vae(entry: VaeEntry, device: torch.device, decode_only: bool = False) -> LoadedVae:
    """Load a catalogue entry's VAE onto a device. `decode_only`: without its encoder, which never gets there.

    Raises:
        ConfigurationError: not found, not allowed, no safetensors, a class that is not known, or a config that
            contradicts the contract; one line that names the VAE.
    """
    config, revision = _read_config(entry)
    try:
        family = family_of(str(config.get("_class_name")))
    except ConfigurationError as error:
        raise ConfigurationError(f"VAE {entry.id!r} ({entry.origin}) {error}") from error
    vae_class = getattr(diffusers, family.class_name)
    contract = check_contract(entry, _defaults(vae_class) | config, family)
    dtype = getattr(torch, entry.cpu_dtype if device.type == "cpu" else entry.dtype)
    source, options = _location(entry)
    try:
        vae = vae_class.from_pretrained(
            source, torch_dtype=dtype, use_safetensors=True, variant=entry.variant, **options
        )
    except Exception as error:
        raise _unloadable(entry, error) from error
    if entry.respects_force_upcast and config.get("force_upcast", True) and dtype == torch.float16:
        # As StableDiffusionXLPipeline does: such a VAE overflows in float16.
        dtype = torch.float32
    if decode_only:
        drop_encoder(vae)
    vae = vae.to(device).eval().requires_grad_(False)
    if vae.dtype != dtype:
        vae.to(dtype)
    switches.bound_tiles(vae, contract.spatial_scale)
    logger.info("loaded VAE %s from %s (%s) on %s in %s", entry.id, entry.origin, revision, device, dtype)
    # Not the file's config: diffusers has filled in what that leaves out.
    cost = family.pixel_cost(vae.config, dtype.itemsize)
    return LoadedVae(ServedVae(entry.id, contract, revision, not decode_only), family, vae, dtype, cost)


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
    except (ConfigurationError, KeyError) as error:
        raise ConfigurationError(f"VAE {entry.id!r} ({entry.origin}) cannot be served: {error}") from error
    for name, said, found in (
        ("latent_channels", entry.latent_channels, channels),
        ("spatial_scale", entry.spatial_scale, scale),
        ("picture_channels", entry.picture_channels, colours),
    ):
        if said is not None and said != found:
            raise ConfigurationError(
                f"VAE {entry.id!r} ({entry.origin}) has {name} {found}; the catalogue says {said}: it is not served"
            )
    limits: dict[str, Any] = {"layouts": family.layouts, **entry.limits}
    return Contract(latent_channels=channels, spatial_scale=scale, picture_channels=colours, **limits)


def _defaults(vae_class: Any) -> dict[str, Any]:
    """What a config.json may leave out: the arguments' defaults, as diffusers fills them in."""
    parameters = signature(vae_class.__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def _location(entry: VaeEntry) -> tuple[str, dict[str, Any]]:
    """Where diffusers finds the entry: a folder or a repository, and the options that go with it."""
    options: dict[str, Any] = {} if entry.subfolder is None else {"subfolder": entry.subfolder}
    if entry.path is None:
        return str(entry.source), options | {"revision": entry.revision}
    if entry.path.startswith(BUILTIN):
        return str(files("vaefarm_worker").joinpath(entry.path.removeprefix(BUILTIN))), options
    return entry.path, options | {"local_files_only": True}


def _read_config(entry: VaeEntry) -> tuple[dict[str, Any], str]:
    """A VAE's config.json, and what tells its weights apart from others."""
    source, options = _location(entry)
    if entry.path is not None:
        folder = Path(source, entry.subfolder or "")
        if not (folder / "config.json").is_file():
            raise ConfigurationError(
                f"VAE {entry.id!r}: {folder} holds no config.json; expected a VAE saved by diffusers"
            )
    try:
        config, _, commit = diffusers.AutoencoderKL.load_config(
            source, return_unused_kwargs=True, return_commit_hash=True, **options
        )
    except Exception as error:
        raise _unloadable(entry, error) from error
    return dict(config), commit or _digest(Path(source, entry.subfolder or ""))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:12]}"


def _unloadable(entry: VaeEntry, error: Exception) -> ConfigurationError:
    if isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError):
        return ConfigurationError(
            f"VAE {entry.id!r} is gated: accept its licence at https://huggingface.co/{entry.source} and set HF_TOKEN"
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ConfigurationError(f"VAE {entry.id!r} ({entry.origin}) cannot be loaded: {reason}")
