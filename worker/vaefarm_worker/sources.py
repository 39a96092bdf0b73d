"""Where a VAE's files lie: which of a folder or of a repository are its own, and whether they are on this machine.

Neither torch nor diffusers is imported, and huggingface_hub only when a repository is looked up: a client's install has
none of them, and lists VAEs all the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from vaefarm_shared.catalogue import VaeEntry

#: How a path of the catalogue names a folder that ships with this package.
BUILTIN: Final[str] = "builtin:"

#: The file with a VAE's class and constants, beside its weights.
CONFIG: Final[str] = "config.json"

#: What an install needs to look into Hugging Face's cache, for messages.
NEEDS_WORKER: Final[str] = "pip install 'vaefarm[worker]'"


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a VAE's files are on this machine."""

    #: None where that cannot be told.
    is_present: bool | None
    #: Bytes of the files that are there.
    size_bytes: int = 0
    #: Why it is not present, or cannot be told.
    reason: str = ""
    #: The config.json, where there is one.
    config: Path | None = None


def folder(entry: VaeEntry) -> Path | None:
    """The folder on this machine that an entry with `path` names; None for a repository."""
    if entry.path is None:
        return None
    if entry.path.startswith(BUILTIN):
        root = Path(str(files("vaefarm_worker").joinpath(entry.path.removeprefix(BUILTIN))))
    else:
        root = Path(entry.path)
    return root / (entry.subfolder or "")


def weights_name(entry: VaeEntry) -> str:
    """The file that diffusers loads an entry's weights from: always safetensors."""
    return f"diffusion_pytorch_model{f'.{entry.variant}' if entry.variant else ''}.safetensors"


def repository_files(entry: VaeEntry) -> Iterator[str]:
    """The files of a repository that loading the entry reads, as paths inside it: config.json, then the weights."""
    prefix = f"{entry.subfolder}/" if entry.subfolder else ""
    yield f"{prefix}{CONFIG}"
    yield f"{prefix}{weights_name(entry)}"


def look_up(entry: VaeEntry) -> Presence:
    """Whether an entry could be loaded without a network, by its files' names alone."""
    place = folder(entry)
    return _in_cache(entry) if place is None else _in_folder(entry, place)


def _in_folder(entry: VaeEntry, place: Path) -> Presence:
    if not place.is_dir():
        return Presence(False, reason=f"{place} is no folder")
    if not (place / CONFIG).is_file():
        return Presence(False, reason=f"{place} holds no {CONFIG}")
    # Weights may be in shards, which only save_pretrained of a local folder writes.
    found = [path for path in place.glob("diffusion_pytorch_model*.safetensors") if path.is_file()]
    if not found:
        return Presence(False, reason=f"{place} holds no {weights_name(entry)}", config=place / CONFIG)
    return Presence(True, _size([place / CONFIG, *found]), config=place / CONFIG)


def _in_cache(entry: VaeEntry) -> Presence:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:
        return Presence(None, reason=NEEDS_WORKER)
    names = list(repository_files(entry))
    cached = [try_to_load_from_cache(str(entry.source), name, revision=entry.revision) for name in names]
    # A file that is known not to exist is a marker, and no path either.
    found = [Path(path) for path in cached if isinstance(path, str)]
    config = found[0] if isinstance(cached[0], str) else None
    missing = [name for name, path in zip(names, cached, strict=True) if not isinstance(path, str)]
    if len(missing) == len(names):
        return Presence(False, reason="not fetched")
    if missing:
        return Presence(False, _size(found), f"{', '.join(missing)} was not fetched", config)
    return Presence(True, _size(found), config=config)


def _size(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
