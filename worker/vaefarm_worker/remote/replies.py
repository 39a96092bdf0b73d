"""What an endpoint's reply holds: raw tensors and pictures' files, believed when every part of them is as it was asked
for; and what the reply tells of how it was made.
"""

import io
import re
from collections.abc import Mapping
from math import prod
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from vaefarm_shared.errors import InvalidPicture
from vaefarm_shared.latents import STORAGE, HostTensor
from vaefarm_shared.picture_files import RGB, RGBA, read_picture_file
from vaefarm_shared.records import PROVENANCE

from ..decoder import Pixels

#: Characters of a body that an error quotes.
EXCERPT_CHARACTERS: Final[int] = 80

#: Bytes of a body that are looked at for that.
EXCERPT_BYTES: Final[int] = 1000

#: Names of switches that a reply may tell.
MAX_SWITCHES: Final[int] = 16

#: What may be a key or a password: a URL's, what follows the word, and whatever is long and has no space.
SECRETS: Final[re.Pattern[str]] = re.compile(
    r"(?<=//)[^/@\s]*@|(?i:(?<=bearer )\S+|(?<=basic )\S+)|[A-Za-z0-9_+/=.~-]{20,}|hf_\w+"
)

#: Types of bodies that are text, and can be quoted.
TEXT: Final[re.Pattern[str]] = re.compile(r"text/|.*(json|html|xml)")


class BadReply(Exception):
    """A reply that is not what was asked for, though its status says that it is."""


class NotReproducible(BadReply):
    """A picture that is right, but not promised to be the pipeline's own bit for bit, as the job wants it: the endpoint
    does not know the promise, which is no failure of its health. It can do no job that wants it.
    """


def gathered(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by their names in lower case; those that came several times are joined with commas."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def check_type(said: Mapping[str, str], expected: tuple[str, ...], body: bytes) -> None:
    """Raise BadReply unless the content type is one of those expected, its parameters left aside."""
    found = said.get("content-type", "").partition(";")[0].strip().lower()
    if found in expected:
        return
    quoted = f", beginning {excerpt(body)!r}" if TEXT.match(found) and body else ""
    kind = f"of type {excerpt(found.encode())!r}" if found else "without a content type"
    raise BadReply(f"the reply is {kind} and has {len(body)} bytes{quoted}; expected {expected[0]}")


def excerpt(body: bytes) -> str:
    """The beginning of a text on one line, as it may be shown: without what could be a secret."""
    text = body[:EXCERPT_BYTES].decode("utf-8", "replace")
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return SECRETS.sub("...", line)[:EXCERPT_CHARACTERS]


def read_pixels(said: Mapping[str, str], body: bytes, expected: tuple[int, ...]) -> Pixels:
    """(n, height, width, 3 or 4) uint8 of a raw reply.

    Raises:
        BadReply: another shape, dtype or number of bytes. That no dtype is told is let pass: it can be no other.
    """
    array = _read_array(said, body, expected, {"uint8": np.uint8}, said.get("dtype", "uint8"))
    # What comes after may write to it.
    return array.copy()


def read_floats(said: Mapping[str, str], body: bytes, expected: tuple[int, ...]) -> HostTensor:
    """(n, 3 or 4, height, width) float16 of a raw reply in float16, bfloat16 or float32, cast as a local decode's.

    Raises:
        BadReply: another shape, dtype or number of bytes; NaN, or Inf that no cast to float16 has made.
    """
    dtype = said.get("dtype", "")
    held = HostTensor(_read_array(said, body, expected, STORAGE, dtype), dtype)
    values = held.numpy()
    broken = np.isnan(values) if dtype == "float16" else ~np.isfinite(values)
    if broken.any():
        raise BadReply(f"the reply's tensor holds NaN or Inf in {int(broken.sum())} of its values; expected none")
    if dtype == "float16":
        return HostTensor(held.array.copy(), dtype)
    with np.errstate(over="ignore"):
        return HostTensor(values.astype(np.float16), "float16")


def read_file(body: bytes, form: Literal["png", "jpeg"], expected: tuple[int, ...]) -> bytes:
    """The file of a picture of (height, width, 3 or 4) in 8 bits, without what no pixel needs.

    Each chunk of a PNG has its checksum; a JPEG has none, and is decoded to know that it can be.

    Raises:
        BadReply: it is no such file, truncated or damaged, or other bytes follow it; another size or kind of colours.
    """
    height, width, channels = expected
    try:
        file = read_picture_file(body)
    except InvalidPicture as error:
        raise BadReply(f"the reply is no whole {form.upper()}: {error}") from error
    if (file.image_format.lower(), file.height, file.width) != (form, height, width):
        raise BadReply(
            f"the reply is a {file.image_format} of {file.width} x {file.height} pixels; expected a {form.upper()} of"
            f" {width} x {height}"
        )
    if form == "jpeg":
        _open(file.data, form, channels)
    elif (file.depth, file.colours) != (8, RGBA if channels == 4 else RGB):
        raise BadReply(
            f"the reply's PNG has {file.depth} bits and colours of kind {file.colours}; expected 8 bits of"
            f" {'RGBA' if channels == 4 else 'RGB'}"
        )
    return file.data


def opened(data: bytes, expected: tuple[int, ...]) -> Pixels:
    """(height, width, 3 or 4) uint8 of what `read_file` gave for a PNG. Raises BadReply where it cannot be decoded."""
    return np.array(_open(data, "png", expected[2]))


def switches_of(said: Mapping[str, str]) -> tuple[str, ...]:
    """The switches that were on, by `x-decode-switches`; what is no name is left out."""
    names = (name.strip() for name in said.get("x-decode-switches", "").split(","))
    return tuple(name for name in names if PROVENANCE.fullmatch(name))[:MAX_SWITCHES]


def told(said: Mapping[str, str], name: str) -> str | None:
    """What a header tells of how the picture was made; None where it tells nothing that could be it."""
    value = said.get(name, "")
    return value if PROVENANCE.fullmatch(value) else None


def _read_array(
    said: Mapping[str, str], body: bytes, expected: tuple[int, ...], storage: Mapping[str, type[Any]], dtype: str
) -> npt.NDArray[Any]:
    if dtype not in storage:
        raise BadReply(
            f"the reply's header dtype is {excerpt(dtype.encode())!r}; expected {' or '.join(sorted(storage))}"
        )
    shape = _shape(said.get("shape", ""))
    if shape != expected:
        raise BadReply(
            f"the reply's header shape is {excerpt(said.get('shape', '').encode())!r}; expected {list(expected)}"
        )
    kind = np.dtype(storage[dtype]).newbyteorder("<")
    if len(body) != prod(expected) * kind.itemsize:
        raise BadReply(
            f"the reply has {len(body)} bytes; expected {prod(expected) * kind.itemsize} of shape {list(expected)} in"
            f" {dtype}"
        )
    return np.frombuffer(body, kind).astype(storage[dtype], copy=False).reshape(expected)


def _shape(text: str) -> tuple[int, ...] | None:
    """`[1, 3, 64, 64]`, or the same without brackets, as headers are joined that came several times."""
    sizes = [one.strip() for one in text.strip().removeprefix("[").removesuffix("]").split(",")]
    return tuple(map(int, sizes)) if all(re.fullmatch("[0-9]{1,9}", one) for one in sizes) else None


def _open(data: bytes, form: str, channels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=(form.upper(),))
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise BadReply(f"the reply's {form.upper()} cannot be decoded: {excerpt(str(error).encode())}") from error
    if len(image.getbands()) != channels:
        raise BadReply(f"the reply's {form.upper()} is {image.mode}; expected {channels} channels")
    return image
