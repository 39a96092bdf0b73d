"""What of a job's metadata goes into its pictures' files, and in which form (docs/metadata.md).

`parameters`: the UIs' text (`infotext`); a PNG's text, Exif's user comment of the others.
`workflow`, `prompt`: ComfyUI's JSON; a PNG's text, Exif's Make and Model of the others.
`invokeai_metadata` and its like: InvokeAI's JSON, a PNG's text.
`vaefarm`: all metadata as JSON; a PNG's text. XMP has it in every format, beside the prompt.
"""

import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from PIL.PngImagePlugin import PngInfo

from vaefarm_shared.job import MAX_METADATA_CHARACTERS, JobSpec, metadata_characters

from .exif import MAKE, MODEL, exif_block
from .infotext import infotext, of_picture, prompt_of
from .xmp import packet

#: InvokeAI's own names.
INVOKEAI: Final[frozenset[str]] = frozenset({"invokeai_metadata", "invokeai_workflow", "invokeai_graph"})

#: A PNG's text with all metadata, and with the XMP packet.
OWN_NAME: Final[str] = "vaefarm"
XMP_NAME: Final[str] = "XML:com.adobe.xmp"

#: Bytes of Exif and of XMP that a JPEG's segment holds; XMP is named in it.
MOST_EXIF_BYTES: Final[int] = 65_533
MOST_XMP_BYTES: Final[int] = MOST_EXIF_BYTES - 29


def embedded(spec: JobSpec) -> dict[str, str]:
    """The metadata that go into a job's files: none where the job says so, or has more than a submit takes."""
    fits = spec.embeds_metadata and metadata_characters(spec.metadata) <= MAX_METADATA_CHARACTERS
    return spec.metadata if fits else {}


def save_options(metadata: Mapping[str, str], spec: JobSpec, index: int) -> dict[str, Any]:
    """What Pillow is told of metadata besides format and quality, for the picture at that place of the job."""
    verbatim = {name: text for name, text in metadata.items() if _is_verbatim(name, text)}
    own = of_picture({name: text for name, text in metadata.items() if name not in verbatim}, index, spec.count)
    parameters = (own.get("parameters") or infotext(own, spec, index, creator())).replace("\0", "")
    # In ASCII, which every reader reads; control characters are escaped as well.
    whole = json.dumps(metadata)
    if spec.image_format == "png":
        return {"pnginfo": _png(parameters, verbatim, whole, packet(creator(), prompt_of(own), whole))}
    is_bound = spec.image_format == "jpeg"
    exif = _exif(parameters, verbatim, MOST_EXIF_BYTES if is_bound else sys.maxsize)
    return exif | _xmp(prompt_of(own), whole, MOST_XMP_BYTES if is_bound else sys.maxsize)


@cache
def creator() -> str:
    """This program and its version."""
    return f"vaefarm {version('vaefarm')}"


def _png(parameters: str, verbatim: Mapping[str, str], whole: str, xmp: str) -> PngInfo:
    info = PngInfo()
    info.add_text("parameters", parameters)
    for name, text in verbatim.items():
        # ComfyUI reads a tEXt as UTF-8, which it is while it is ASCII.
        info.add_text(name, text) if text.isascii() else info.add_itxt(name, text)
    info.add_text(OWN_NAME, whole)
    info.add_itxt(XMP_NAME, xmp)
    return info


def _exif(parameters: str, verbatim: Mapping[str, str], most: int) -> dict[str, Any]:
    """The fullest Exif block that fits: with the graphs, without, or none."""
    tags = {"workflow": MAKE, "prompt": MODEL}
    graphs = {tags[name]: f"{name}:{_ascii(text)}" for name, text in verbatim.items() if name in tags}
    blocks = (exif_block(parameters, texts) for texts in (graphs, {}))
    return next(({"exif": block} for block in blocks if len(block) <= most), {})


def _xmp(description: str, whole: str, most: int) -> dict[str, Any]:
    """The fullest packet that fits: with all metadata, with the prompt alone, or with neither."""
    packets = (packet(creator(), *said).encode() for said in ((description, whole), (description, ""), ("", "")))
    return next({"xmp": one} for one in packets if len(one) <= most)


def _is_verbatim(name: str, text: str) -> bool:
    """Whether it is a UI's own JSON, which goes under its own name: a plain prompt is none."""
    if name not in INVOKEAI and name not in ("workflow", "prompt"):
        return False
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if name != "prompt":
        return isinstance(found, dict)
    nodes = found.values() if isinstance(found, dict) else ()
    return bool(nodes) and all(isinstance(node, dict) and "class_type" in node for node in nodes)


def _ascii(text: str) -> str:
    """The same JSON in ASCII: what is not stands in strings, where it may be escaped."""
    return "".join(one if one.isascii() else json.dumps(one)[1:-1] for one in text)
