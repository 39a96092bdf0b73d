"""Loading VAEs: from a local folder or Hugging Face, safetensors only, checked against the catalogue's contract."""

import hashlib
import logging
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from huggingface_hub.errors import GatedRepoError

from vaefarm_shared.catalogue import Contract, VaeEntry
from vaefarm_shared.errors import ConfigurationError

from .decoder import ServedVae
from .families import scale_shift, switches
from .memory import PixelCost

logger = logging.getLogger(__name__)

#: Classes that are known, by the name that config.json gives.
KNOWN_CLASSES: Final[dict[str, Any]] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}

#: How a path of the catalogue names a folder that ships with this package.
BUILTIN: Final[str] = "builtin:"


@dataclass(frozen=True, slots=True)
class LoadedVae:
    """A VAE on its device, ready to decode."""

    served: ServedVae
    module: Any
    dtype: torch.dtype
    cost: PixelCost


def load_vae(entry: VaeEntry, device: torch.device) -> LoadedVae:
    """Load a catalogue entry's VAE onto a device.

    Raises:
        ConfigurationError: not found, not allowed, no safetensors, a class that is not known, or a config that
            contradicts the contract; one line that names the VAE.
    """
    config, revision = _read_config(entry)
    class_name = str(config.get("_class_name"))
    if class_name not in KNOWN_CLASSES:
        raise ConfigurationError(
            f"VAE {entry.id!r} ({entry.origin}) is a {class_name}; this release decodes {', '.join(KNOWN_CLASSES)}"
        )
    contract = check_contract(entry, config)
    dtype = getattr(torch, entry.cpu_dtype if device.type == "cpu" else entry.dtype)
    source, options = _location(entry)
    try:
        vae = KNOWN_CLASSES[class_name].from_pretrained(
            source, torch_dtype=dtype, use_safetensors=True, variant=entry.variant, **options
        )
    except Exception as error:
        raise _unloadable(entry, error) from error
    if entry.respects_force_upcast and config.get("force_upcast", True) and dtype == torch.float16:
        # As StableDiffusionXLPipeline does: such a VAE overflows in float16.
        dtype = torch.float32
    vae = vae.to(device).eval().requires_grad_(False)
    if vae.dtype != dtype:
        vae.to(dtype)
    switches.bound_tiles(vae, contract.spatial_scale)
    logger.info("loaded VAE %s from %s (%s) on %s in %s", entry.id, entry.origin, revision, device, dtype)
    cost = scale_shift.pixel_cost(config, dtype.itemsize)
    return LoadedVae(ServedVae(entry.id, contract, revision), vae, dtype, cost)


def check_contract(entry: VaeEntry, config: dict[str, Any]) -> Contract:
    """The contract of a VAE by its own config.

    Raises:
        ConfigurationError: the catalogue says otherwise: serving it would decode other latents than were checked.
    """
    try:
        scale_shift.check_config(config)
        channels, scale = scale_shift.latent_channels(config), scale_shift.spatial_scale(config)
    except (ConfigurationError, KeyError) as error:
        raise ConfigurationError(f"VAE {entry.id!r} ({entry.origin}) cannot be served: {error}") from error
    for name, said, found in (
        ("latent_channels", entry.latent_channels, channels),
        ("spatial_scale", entry.spatial_scale, scale),
    ):
        if said is not None and said != found:
            raise ConfigurationError(
                f"VAE {entry.id!r} ({entry.origin}) has {name} {found}; the catalogue says {said}: it is not served"
            )
    return Contract(latent_channels=channels, spatial_scale=scale, **entry.limits)


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
        config, _, commit = AutoencoderKL.load_config(
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
