"""Fetching a VAE's files from Hugging Face into its cache, where a worker finds them without a network.

Two files are fetched: config.json and the weights as safetensors. Whatever else the repository holds, pickles above
all, stays there.
"""

import errno
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.errors import ConfigurationError, FarmError

from .sources import NEEDS_WORKER, repository_files


@dataclass(frozen=True, slots=True)
class Pulled:
    """A VAE that is on this machine now."""

    #: The commit of the repository that its files are of.
    commit: str
    #: Bytes of its files.
    size_bytes: int


def pull(entry: VaeEntry) -> Pulled:
    """Fetch an entry's files, unless they are here already; shows the library's progress bar on standard error.

    The weights are of the commit that config.json came from, though the branch may move meanwhile. Files that are
    complete stay when a later one fails or is interrupted, so that the next call fetches the rest.

    Raises:
        ConfigurationError: huggingface_hub is missing; the source is gated, not known, holds no safetensors or no such
            revision; or this machine is offline or has no room. One line, which names the VAE and what to do.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"fetching VAEs needs {error.name}: {NEEDS_WORKER}") from error
    config_name, weights_name = repository_files(entry)
    source = str(entry.source)
    name = config_name
    try:
        config = hf_hub_download(source, config_name, revision=entry.revision)
        commit = _commit(config, config_name)
        name = weights_name
        weights = hf_hub_download(source, weights_name, revision=commit)
    # Its errors are OSErrors and ValueErrors, and those of the HTTP library below it neither.
    except Exception as error:
        raise explain(entry, name, error) from error
    return Pulled(commit, sum(_size(path) for path in (config, weights)))


def explain(entry: VaeEntry, name: str, error: Exception) -> FarmError:
    """What went wrong as a file was fetched, in one line."""
    from huggingface_hub import errors

    source, vae = entry.source, f"VAE {entry.id!r}"
    chain = [error, error.__cause__, error.__context__]
    # The order matters: a gated repository is a kind of one that is not found, and everything is an OSError.
    if isinstance(error, errors.GatedRepoError):
        return gated(entry)
    if isinstance(error, errors.RepositoryNotFoundError):
        text = f"{vae}: Hugging Face knows no repository {source}, or it is private: set HF_TOKEN then"
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"{vae}: {source} has no revision {entry.revision!r}; expected a branch, a tag or a commit"
    elif isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        text = f"{vae}: {source} holds no {name}; expected a VAE saved by diffusers, as safetensors"
    elif any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in chain):
        text = f"{vae} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it: unset it"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"{vae}: no room for {name} of {source}; HF_HOME moves Hugging Face's cache to another disk"
    elif isinstance(error, PermissionError):
        text = f"{vae}: {error.filename} cannot be written; HF_HOME moves Hugging Face's cache"
    else:
        text = f"{vae}: {name} of {source} was not fetched: {_reason(error)}; what is complete is kept, try again"
    return ConfigurationError(text)


def gated(entry: VaeEntry) -> ConfigurationError:
    """The error for a source that lets in those alone who accepted its licence."""
    return ConfigurationError(
        f"VAE {entry.id!r} is gated: accept its licence at https://huggingface.co/{entry.source} and set HF_TOKEN"
    )


def _commit(path: str, name: str) -> str:
    """The commit of a file of the cache: .../snapshots/COMMIT/NAME."""
    return Path(path).parents[len(PurePosixPath(name).parts) - 1].name


def _size(path: str) -> int:
    return Path(path).stat().st_size


def _reason(error: Exception) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
