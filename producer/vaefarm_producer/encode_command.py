"""The command that encodes a picture."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vaefarm_shared.errors import InvalidInput, InvalidOption, InvalidPicture
from vaefarm_shared.pictures import MAX_PICTURE_BYTES

from .collecting import write_file
from .commands import FarmOption, JsonOption, open_farm
from .encoding import EncodeOptions
from .result import LATENTS_SUFFIX


def encode(
    file: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP.")],
    vae: Annotated[str, typer.Option(help="VAE id, such as sdxl.")],
    out: Annotated[
        Path | None, typer.Option(help="Safetensors file for the latents. Otherwise FILE's name, here.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Sample the posterior with this seed; its mode otherwise.")] = None,
    reproducible: Annotated[bool, typer.Option("--reproducible", help="The pipeline's latents, bit for bit.")] = False,
    priority: Annotated[str, typer.Option(help="high, normal or low.")] = "normal",
    block: Annotated[bool, typer.Option("--block", help="Wait while the farm is full.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; otherwise no limit.")] = None,
    url: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode a picture to the latents that an img2img pipeline begins with, wait, and save them.

    `vaefarm submit` decodes what this writes. The picture's height and width must fit the VAE: nothing is resized.
    """
    data = read_picture(file)
    path = out or Path(file.stem + LATENTS_SUFFIX)
    if not path.parent.is_dir():
        raise InvalidOption(f"--out {path}: {path.parent} is no folder; expected a file in one that there is")
    options: EncodeOptions = {"seed": seed, "reproducible": reproducible, "priority": priority}
    with open_farm(url) as farm:
        try:
            job = farm.encode(data, vae=vae, block=block, timeout=timeout, **options)
        except InvalidInput as error:
            raise type(error)(f"{file}: {error}") from error
        with Console(stderr=True).status("encoding ..."):
            result = job.result(timeout)
    try:
        write_file(path, result.data[0])
    except OSError as error:
        raise InvalidOption(f"--out {path}: {error.strerror}; `vaefarm fetch {job.id}` gets the latents") from error
    if as_json:
        made = result.latents
        print(json.dumps({"id": job.id, "file": str(path), "shape": made.shape, "dtype": made.dtype}))
    else:
        print(path)


def read_picture(path: Path) -> bytes:
    """A file's bytes. Raises InvalidPicture where it cannot be read, or is too large."""
    try:
        size = path.stat().st_size
        if size > MAX_PICTURE_BYTES:
            raise InvalidPicture(f"{path} has {size} bytes; pictures of at most {MAX_PICTURE_BYTES} bytes are taken")
        return path.read_bytes()
    except OSError as error:
        raise InvalidPicture(f"{path} cannot be read: {error.strerror}; expected a PNG, JPEG or WebP") from error
