"""What a batch is to make: which files, under which names, all known before anything is queued."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vaefarm_shared.digests import CIRCUMSTANCES
from vaefarm_shared.errors import InvalidInput, InvalidOption, UnknownVae
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import FileHeader

from .collecting import SUFFIXES
from .farm import Farm
from .latent_files import find_files, spec_of_file
from .manifest import MANIFEST_NAME
from .naming import NameTemplate
from .result import LATENTS_SUFFIX
from .submission import DecodeOptions

#: Files that an error names.
NAMED: Final[int] = 3


@dataclass(frozen=True)
class Batch:
    """What a batch is made of and with."""

    files: Sequence[Path]
    out: Path
    vae: str
    options: DecodeOptions
    template: NameTemplate
    height: int | None = None
    width: int | None = None

    @property
    def digest(self) -> str:
        """Tells batches of other pictures apart, whenever and for whom they are made."""
        options = {name: value for name, value in self.options.items() if name not in CIRCUMSTANCES}
        said = {"vae": self.vae, "height": self.height, "width": self.width, **options}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Planned:
    """A file of latents, and the names of its pictures below the folder."""

    path: Path
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made, and what cannot be."""

    planned: list[Planned] = field(default_factory=list)
    refused: list[tuple[Path, InvalidInput]] = field(default_factory=list)


def make_plan(farm: Farm, batch: Batch) -> Plan:
    """Read the header of each file, and name its pictures.

    Raises:
        InvalidOption: names that lead elsewhere, lack a value, or are given twice; no file at all.
        InvalidInput: not one of the files can be decoded: the first one's error.
        UnknownVae, FarmUnavailable.
    """
    plan = Plan()
    misnamed: list[str] = []
    for number, (path, folder) in enumerate(find_files(batch.files, batch.out)):
        try:
            spec, header = spec_of_file(farm, path, batch.vae, batch.height, batch.width, batch.options)
        except UnknownVae:
            raise
        except InvalidInput as error:
            plan.refused.append((path, error))
            continue
        try:
            # A raw tensor holds them all.
            count = 1 if spec.output_type == "pt" else spec.count
            outputs = batch.template.names(values_of(path, folder, number, spec, header), count)
            plan.planned.append(Planned(path, outputs))
        except InvalidOption as error:
            misnamed.append(f"{path}: {error}")
    refuse("cannot be named", misnamed)
    refuse("would overwrite one another, or the latents", collisions(plan.planned, batch.out))
    if plan.refused and not plan.planned:
        raise plan.refused[0][1]
    return plan


def values_of(path: Path, folder: str, number: int, spec: JobSpec, header: FileHeader) -> dict[str, str | int]:
    """What a template may name of a file."""
    height, width = spec.picture_size
    suffix = SUFFIXES[spec.image_format] if spec.num_frames is None else f".{spec.video_format}"
    if spec.output_type == "pt":
        suffix = LATENTS_SUFFIX
    return {
        **header.metadata,
        "folder": folder,
        "stem": path.name.removesuffix(LATENTS_SUFFIX),
        "number": number,
        "ext": suffix.removeprefix("."),
        "vae": spec.vae,
        "height": height,
        "width": width,
    }


def collisions(planned: Sequence[Planned], out: Path) -> list[str]:
    """Names that two files' pictures would share, or that are the manifest's or a file of latents."""
    taken = {MANIFEST_NAME: "the manifest"}
    found = []
    sources = {one.path.resolve() for one in planned} if any(is_tensor(one) for one in planned) else set()
    for one in planned:
        for output in one.outputs:
            if output in taken:
                found.append(f"{taken[output]} and {one.path}: {output}")
            elif sources and (out / output).resolve() in sources:
                found.append(f"{one.path}: {out / output} holds latents")
            taken[output] = str(one.path)
    return found


def is_tensor(one: Planned) -> bool:
    """Whether its result is a safetensors file, as its latents are."""
    return any(output.endswith(LATENTS_SUFFIX) for output in one.outputs)


def refuse(what: str, names: Sequence[str]) -> None:
    """Raise InvalidOption where there are any names."""
    if names:
        more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise InvalidOption(f"{len(names)} pictures {what}: {'; '.join(names[:NAMED])}{more}; change --name")
