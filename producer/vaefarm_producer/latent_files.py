"""Files of latents: found below folders, read, and made into jobs."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from vaefarm_shared import latents
from vaefarm_shared.checks import MAX_LATENT_BYTES
from vaefarm_shared.errors import InvalidInput, InvalidOption, UnknownVae
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import FileHeader

from .call_metadata import fitting
from .farm import Farm
from .result import LATENTS_SUFFIX
from .submission import DecodeOptions, PreparedJob

#: What libraries write into a file's metadata of the tensors' framework: nothing of a picture.
FRAMEWORK: Final[str] = "format"


def find_files(paths: Iterable[Path], out: Path) -> Iterator[tuple[Path, str]]:
    """Each file, and those below each folder in order, with their folder below it; what lies in `out` is left out.

    Raises InvalidOption for a folder that has none.
    """
    own = out.resolve()
    for path in paths:
        if not path.is_dir():
            yield path, "."
            continue
        is_empty = True
        for folder, folders, names in os.walk(path):
            here = Path(folder)
            folders[:] = sorted(name for name in folders if (here / name).resolve() != own)
            for name in sorted(name for name in names if name.endswith(LATENTS_SUFFIX)):
                is_empty = False
                yield here / name, here.relative_to(path).as_posix()
        if is_empty:
            raise InvalidOption(f"{path} has no file *{LATENTS_SUFFIX}; expected a folder of latents")


def prepare_file(
    farm: Farm, path: Path, vae: str, height: int | None, width: int | None, options: DecodeOptions
) -> tuple[PreparedJob, dict[str, str]]:
    """Read a file's latents and make a job of them; their size is the file's metadata's unless it is given.

    The file's metadata are the job's, as far as a job takes them. Returns the job and all of the file's metadata.
    Raises InvalidInput, which names the file.
    """
    tensor, metadata = latents.read_file(path, MAX_LATENT_BYTES)
    sized = with_size(options, metadata, height, width, path)
    if told := fitting({name: text for name, text in metadata.items() if name != FRAMEWORK}):
        sized["metadata"] = told
    try:
        return farm.prepare(tensor, vae=vae, **sized), metadata
    except InvalidInput as error:
        raise type(error)(f"{path}: {error}") from error


def spec_of_file(
    farm: Farm, path: Path, vae: str, height: int | None, width: int | None, options: DecodeOptions
) -> tuple[JobSpec, FileHeader]:
    """What the job of a file will be, by its header alone. Raises InvalidInput, which names the file."""
    header = latents.read_header(path, MAX_LATENT_BYTES)
    sized = with_size(options, header.metadata, height, width, path)
    try:
        return farm.spec_of(header.shape, header.dtype, vae=vae, **sized), header
    except UnknownVae:
        raise
    except InvalidInput as error:
        raise type(error)(f"{path}: {error}") from error


def with_size(
    options: DecodeOptions, metadata: dict[str, str], height: int | None, width: int | None, path: Path
) -> DecodeOptions:
    """The options with the pictures' size, as given or as the metadata say. Raises InvalidOption."""
    return {
        **options,
        "height": height or size_in(metadata, "height", path),
        "width": width or size_in(metadata, "width", path),
    }


def size_in(metadata: dict[str, str], name: str, path: Path) -> int | None:
    """Pixels that a file's metadata gives, if it does. Raises InvalidOption for what is no number."""
    if name not in metadata:
        return None
    try:
        return int(metadata[name])
    except ValueError as error:
        raise InvalidOption(f"{path}: its metadata says {name}={metadata[name]!r}; expected pixels") from error
