"""From what a job stored to the reply that was wanted, in the Hugging Face remote-VAE protocol."""

import base64
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from vaefarm_shared.latents import STORAGE, HostTensor, read_tensor
from vaefarm_shared.records import PROVENANCE, DecodeReport
from vaefarm_shared.unit import to_unit

from ..result import open_image
from .hf_wanted import BASE64, BINARY, JSON, TEXT, VIDEO, Wanted
from .pieces import in_pieces

#: A reply's body, its type, and further headers.
Made = tuple[bytes, str, dict[str, str]]


def make_reply(reply: Wanted, stored: Sequence[bytes]) -> web.Response:
    """The answer; blocks while pictures are opened.

    Args:
        stored: What the job stored: a picture's or a video's file each, or one safetensors file.
    """
    match reply.content:
        case "picture":
            made = _picture(reply, stored[0])
        case "video":
            made = stored[0], VIDEO, {}
        case _:
            made = _tensor(reply, tensor_of(reply, stored))
    body, content_type, headers = made
    sent = in_pieces(body)
    if reply.form == "text":
        return web.Response(body=sent, content_type=TEXT, charset="utf-8", headers=headers)
    return web.Response(body=sent, content_type=content_type, headers=headers)


def provenance(report: DecodeReport) -> dict[str, str]:
    """How the result was made, as headers: a farm that asked another has it in its own record."""
    told = {
        "x-decode-dtype": report.dtype,
        "x-decode-revision": report.revision,
        "x-decode-widened-from": report.widened_from or "",
    }
    found = {name: value for name, value in told.items() if PROVENANCE.fullmatch(value)}
    if switches := [name for name in report.switches if PROVENANCE.fullmatch(name)]:
        found["x-decode-switches"] = ", ".join(switches)
    # Steps of the operator may have changed what the pipeline would have made.
    if report.reproducible and not report.after_decode:
        found["x-reproducible"] = "True"
    return found


def tensor_of(reply: Wanted, stored: Sequence[bytes]) -> HostTensor:
    """The tensor of a reply.

    raw: float16 (n, 3, height, width), of videos (n, 3, frames, height, width), about [-1, 1], neither clamped nor
        denormalised;
    unit: the same in [0, 1]; of a video (frames, 3, height, width);
    pixels: uint8 (n, height, width, 3), those of the pictures, or of a video's frames;
    latents: (n, c, height / scale, width / scale) in the dtype of the encode.
    """
    if reply.content == "pixels":
        return HostTensor(_frames(stored[0]) if reply.of_video else _pixels(reply, stored), "uint8")
    held = HostTensor(*read_tensor(stored[0], STORAGE))
    if reply.content != "unit":
        return held
    # One reply is of one video, as the client takes it for frames.
    array = np.ascontiguousarray(held.array[0].swapaxes(0, 1)) if reply.of_video else held.array
    return HostTensor(to_unit(array), "float16")


def _pixels(reply: Wanted, stored: Sequence[bytes]) -> npt.NDArray[Any]:
    """(n, height, width, channels) uint8 of pictures' files."""
    return np.stack([np.asarray(open_image(one, reply.options["image_format"])) for one in stored])


def _frames(data: bytes) -> npt.NDArray[Any]:
    """(frames, height, width, channels) uint8 of a zip of PNG; beside it one frame is in memory at a time."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = sorted(archive.namelist())
        first = np.asarray(open_image(archive.read(names[0]), "png"))
        frames = np.empty((len(names), *first.shape), np.uint8)
        for place, name in enumerate(names):
            frames[place] = open_image(archive.read(name), "png")
    return frames


def _picture(reply: Wanted, data: bytes) -> Made:
    if reply.form == "json":
        return json.dumps(base64.b64encode(data).decode()).encode(), JSON, {}
    return data, f"image/{reply.image_format}", {}


def _tensor(reply: Wanted, tensor: HostTensor) -> Made:
    data, shape = tensor.array.tobytes(), list(tensor.shape)
    if reply.form == "bytes":
        return data, BINARY, {"shape": json.dumps(shape), "dtype": tensor.dtype}
    wrapped = {"inputs": base64.b64encode(data).decode(), "parameters": {"shape": shape, "dtype": tensor.dtype}}
    return json.dumps(wrapped).encode(), BASE64 if reply.form == "base64" else JSON, {}
