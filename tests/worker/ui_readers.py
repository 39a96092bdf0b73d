"""How the common UIs read a picture's metadata, after their sources, with their regular expressions to the letter.

AUTOMATIC1111, and Forge after it: modules/infotext_utils.py (`parse_generation_parameters`), modules/images.py
(`read_info_from_image`) of AUTOMATIC1111/stable-diffusion-webui.
SD.Next: modules/infotext.py (`parse`) of vladmandic/sdnext.
ComfyUI: src/scripts/pnginfo.ts (`importA1111`, `getWebpMetadata`), src/scripts/metadata/png.ts of
Comfy-Org/ComfyUI_frontend.
Civitai: src/utils/metadata/automatic.metadata.ts of civitai/civitai.
"""

import io
import json
import re
import struct
import xml.etree.ElementTree as ElementTree
from typing import Any

from PIL import Image

A1111_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
SDNEXT_PAIR = re.compile(r'\s*([\w ]+):\s*("(?:\\"[^,]|\\"|\\|[^\"])+"|[^,]*)(?:,|$)')
COMFY_PAIR = re.compile(r'\s*([^:]+:\s*([^"\{].*?|".*?"|\{.*?\}))\s*(,|$)')
SIZE = re.compile(r"^(\d+)x(\d+)$")

#: What SD.Next takes for the end of a prompt.
SDNEXT_MARKS = ["steps: ", "seed: ", "width: ", "height: ", "sampler: ", "size: ", "cfg scale: ", "pipeline: "]
SDNEXT_MARKS += ["negative prompt: ", "template: ", "negative template: "]


def unquoted(text: str) -> str:
    if text[:1] != '"' or text[-1:] != '"':
        return text
    try:
        found: str = json.loads(text)
    except ValueError:
        return text
    return found


def a1111(text: str) -> dict[str, str]:
    """Prompts and pairs."""
    *lines, last = text.strip().split("\n")
    if len(A1111_PAIR.findall(last)) < 3:
        lines, last = [*lines, last], ""
    prompts: tuple[list[str], list[str]] = ([], [])
    which = 0
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            which, line = 1, line[16:].strip()
        # A line that is empty begins nothing.
        prompts[which].append(line) if prompts[which] or line else None
    read = {"Prompt": "\n".join(prompts[0]), "Negative prompt": "\n".join(prompts[1])}
    for name, value in A1111_PAIR.findall(last):
        found = unquoted(value)
        if (size := SIZE.match(found)) is not None:
            read |= {f"{name}-1": size[1], f"{name}-2": size[2]}
        else:
            read[name] = found
    return read


def sdnext(text: str) -> dict[str, Any]:
    """Prompts and pairs."""

    def taken(keyword: str, rest: str) -> tuple[str, str]:
        if keyword not in rest.lower():
            return "", rest
        if rest.lower().startswith(f"{keyword}:"):
            rest = rest[len(keyword) + 1 :]
        rest = rest.strip("\n").strip()
        places = [rest.lower().find(mark) for mark in SDNEXT_MARKS if mark in rest.lower()]
        head = rest[: min(places, default=0)]
        return head.strip("\n").strip(), rest.replace(head, "")

    prompt, rest = taken("", text.replace("\nSteps:", " Steps:"))
    negative, rest = taken("negative prompt", rest)
    pairs = {name: unquoted(value).strip(" ,\n") for name, value in SDNEXT_PAIR.findall(rest)}
    return {**pairs, "Prompt": prompt, "Negative prompt": negative}


def comfyui(text: str) -> dict[str, str] | None:
    """Prompts and pairs of A1111's text, in lower case; None where ComfyUI makes no graph of it."""
    place = text.rfind("\nSteps:")
    split = text.rfind("\nNegative prompt:", 0, place + 1)
    if place < 0 or split < 0:
        return None
    read = {"positive": text[:split].strip(), "negative": text[split + 18 : place].strip()}
    for pair, _, _ in COMFY_PAIR.findall(text[place:].split("\n")[1]):
        name, value = pair.split(":")[:2]
        read[name.strip().lower()] = value.removesuffix(",").strip()
    return read


def civitai(text: str) -> dict[str, str] | None:
    """Prompts and pairs without quotes; None where Civitai reads nothing."""
    if "Steps: " not in text:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    details = next(line for line in lines if line.startswith("Steps: "))
    lines.remove(details)
    prompt, *negative = (part.strip() for part in "\n".join(lines).split("Negative prompt:"))
    read = {"prompt": prompt, "negativePrompt": " ".join(negative).strip()}
    for pair in re.sub(r'"[^"]*"', "", details).split(","):
        name, _, value = pair.partition(":")
        read[name.strip()] = value.strip()
    return read


def parameters(data: bytes) -> str:
    """A1111's text of a file, as A1111 finds it."""
    image = Image.open(io.BytesIO(data))
    if "exif" not in image.info:
        return str(image.info["parameters"])
    (kind, comment) = exif_values(image.info["exif"])[0x9286]
    # piexif gives bytes of this type alone, and its helper decodes them so.
    assert (kind, comment[:8]) == (7, b"UNICODE\0")
    return comment[8:].decode("utf-16-be")


def xmp_properties(data: bytes) -> dict[str, str]:
    """The properties of a file's XMP packet, by their names without namespaces."""
    image = Image.open(io.BytesIO(data))
    found = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
    rdf = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    (description,) = ElementTree.fromstring(found.decode()).iter(rdf)
    return {one.tag.rpartition("}")[2]: "".join(one.itertext()) for one in description}


def exif_values(block: bytes) -> dict[int, tuple[int, bytes]]:
    """Type and bytes of each value of an Exif block, of both its directories."""
    data = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    found: dict[int, tuple[int, bytes]] = {}
    starts = [struct.unpack_from(f"{order}I", data, 4)[0]]
    for start in starts:
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", data, place)
            (value,) = struct.unpack_from(f"{order}I", data, place + 8)
            if tag == 0x8769:
                starts.append(value)
            else:
                found[tag] = kind, data[value : value + length]
    return found


def comfy_webp(data: bytes) -> dict[str, str]:
    """ComfyUI's texts of a WebP: those of Exif's first directory, by what stands before their colon."""
    place = 12
    while data[place : place + 4] != b"EXIF":
        # As it does: without the byte that follows a chunk of odd length.
        place += 8 + int.from_bytes(data[place + 4 : place + 8], "little")
    block = data[place + 8 : place + 8 + int.from_bytes(data[place + 4 : place + 8], "little")]
    texts = [value[:-1].decode() for kind, value in exif_values(block).values() if kind == 2]
    return dict(text.split(":", 1) for text in texts)


def comfy_png(data: bytes) -> dict[str, str]:
    """ComfyUI's texts of a PNG: it reads each as UTF-8."""
    found, place = {}, 8
    while place < len(data):
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if kind in (b"tEXt", b"iTXt"):
            name, _, text = data[place + 8 : place + 8 + length].partition(b"\0")
            if kind == b"iTXt":
                text = text[2:].split(b"\0", 2)[2]
            found[name.decode("latin-1")] = text.decode("utf-8", "replace")
        place += 12 + length
    return found
