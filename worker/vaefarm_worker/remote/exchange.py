"""What is said to an endpoint, and what its reply is worth: the protocol of Hugging Face's remote VAEs, from the
client's side. No network here.

What is asked for is the smallest reply that loses nothing: uint8 pixels, or a file where the job wants just such a one.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from vaefarm_shared.catalogue import Contract, VaeEntry
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import HostTensor, Latents
from vaefarm_shared.picture_files import JPEG_SIGNATURE

from ..decoder import Decoded
from ..encode import encode_pixels
from .replies import (
    BadReply,
    NotReproducible,
    check_type,
    excerpt,
    gathered,
    opened,
    read_file,
    read_floats,
    read_pixels,
    switches_of,
    told,
)

__all__ = ["BadReply", "NotReproducible", "Question", "excerpt", "joined", "questions", "read_reply", "refusal"]

#: What a reply is: raw uint8 pixels, the decoder's raw floats, or a picture's file.
Form = Literal["pixels", "tensor", "png", "jpeg"]

#: What is said for each: image_format, output_type, partial_postprocess.
SAID: Final[dict[Form, tuple[str, str, str]]] = {
    "pixels": ("png", "pt", "True"),
    "tensor": ("png", "pt", "False"),
    "png": ("png", "pil", "False"),
    "jpeg": ("jpg", "pil", "False"),
}

#: The content types that each may have; the first is accepted.
TYPES: Final[dict[Form, tuple[str, ...]]] = {
    "pixels": ("tensor/binary", "application/octet-stream"),
    "tensor": ("tensor/binary", "application/octet-stream"),
    "png": ("image/png",),
    "jpeg": ("image/jpeg", "image/jpg"),
}

#: The quality of the protocol's JPEGs, Pillow's own, with 4:2:0: a job that wants it gets the very file that is made
#: here of the same pixels.
JPEG_QUALITY: Final[int] = 75

#: Bytes that a picture's file may have beyond those of its pixels.
FILE_ROOM_BYTES: Final[int] = 1024 * 1024

#: Bytes of the widest float that a raw tensor may come in.
FLOAT_BYTES: Final[int] = 4

#: What `reproducible=True` is answered with where it was kept.
REPRODUCIBLE: Final[str] = "x-reproducible"

#: What is known of the dtype of a decode that did not tell.
UNKNOWN: Final[str] = "unknown"


@dataclass(frozen=True, slots=True)
class Question:
    """One request to an endpoint, for one picture, or for all of a job that must be decoded in one call."""

    params: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes
    #: Pictures that the reply must hold.
    count: int
    #: Bytes beyond which a reply is not read.
    most_bytes: int
    form: Form = "pixels"
    #: Of a file: whether it is the job's result as it comes.
    is_kept: bool = False


def refusal(spec: JobSpec, entry: EndpointEntry) -> str | None:
    """Why an endpoint cannot be asked for a job, whatever state it is in; None where it can."""
    if spec.task != "decode":
        return "endpoints are asked for decodes alone; an encode needs a worker with the VAE"
    if spec.num_frames is not None:
        return "endpoints are asked for pictures alone; a video needs a worker with the VAE"
    if spec.crop_height is not None or spec.crop_width is not None:
        return "the remote-VAE protocol has no word for a picture that is resized and cropped after its decode"
    if spec.picture_pixels > entry.max_pixels:
        return (
            f"pictures of {spec.width} x {spec.height} = {spec.picture_pixels} pixels are above the endpoint's"
            f" max_pixels of {entry.max_pixels}"
        )
    if entry.protocol == "v2":
        return None
    options = {
        "output_type='pt'": spec.output_type == "pt",
        "normalised=False": not spec.normalised,
        "scaling_factor": spec.scaling_factor is not None,
        "reproducible": spec.reproducible,
    }
    unsaid = [name for name, is_wanted in options.items() if is_wanted]
    return f"the protocol's first generation (v1) has no word for {', '.join(unsaid)}" if unsaid else None


def questions(spec: JobSpec, latents: Latents, vae: VaeEntry, entry: EndpointEntry, *, plain: bool) -> list[Question]:
    """The requests that a job takes, whose `refusal` is None.

    One for each picture: a reply holds one file, and compiled endpoints decode one. All in one where the job must be
    reproducible, since a batch of another size may give other bits.

    Args:
        plain: Ask for no file that is kept as it comes: steps follow that need pixels. A job with output_type='pt' has
            its tensor all the same, of which they make pixels.
    """
    parts = [latents.array] if spec.reproducible else np.split(latents.array, len(latents.array))
    # A file that is kept as it comes would have no metadata.
    keeps = entry.pass_through and not plain and len(parts[0]) == 1 and not spec.embeds_metadata
    return [_question(spec, part, latents.dtype, vae, entry, keeps) for part in parts]


def read_reply(
    question: Question, spec: JobSpec, contract: Contract, status: int, headers: Mapping[str, str], body: bytes
) -> Decoded:
    """What came of one request, of `question.count` pictures. Its `endpoint` is for the caller to say.

    Raises:
        NotReproducible: the reply does not say that the job's promise was kept.
        BadReply: content type, bytes, shape or file are not what was asked for.
    """
    if status != 200:
        raise BadReply(f"the reply has status {status}; expected 200")
    said = gathered(headers)
    check_type(said, TYPES[question.form], body)
    size = (spec.height, spec.width, contract.picture_channels)
    made: dict[str, Any] = {"pixels": None}
    match question.form:
        case "pixels":
            made["pixels"] = read_pixels(said, body, (question.count, *size))
        case "tensor":
            made["tensor"] = read_floats(said, body, (question.count, size[2], *size[:2]))
        case "png" | "jpeg" as form:
            file = read_file(body, form, size)
            made = {"pixels": None, "files": (file,)} if question.is_kept else {"pixels": opened(file, size)[None]}
    if spec.reproducible and said.get(REPRODUCIBLE, "").lower() != "true":
        raise NotReproducible("the endpoint does not say that its picture is reproducible, as the job wants it")
    return Decoded(
        dtype=told(said, "x-decode-dtype") or UNKNOWN,
        widened_from=told(said, "x-decode-widened-from"),
        switches=switches_of(said),
        revision=told(said, "x-decode-revision"),
        **made,
    )


def joined(parts: list[Decoded]) -> Decoded:
    """What the requests of one job gave, as one, in their order.

    What they tell differently (of a job whose requests went to several endpoints) is unknown of the whole; switches
    and endpoints are all named. Where some endpoints' files were kept and others gave pixels, those become such files.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    files = [file for one in parts for file in one.files]
    dtypes, revisions = {one.dtype for one in parts}, {one.revision for one in parts}
    endpoints = dict.fromkeys(one.endpoint for one in parts if one.endpoint is not None)
    pixels = [one.pixels for one in parts if one.pixels is not None]
    tensors = [one.tensor.array for one in parts if one.tensor is not None]
    return Decoded(
        pixels=np.concatenate(pixels) if pixels and not files else None,
        dtype=first.dtype if len(dtypes) == 1 else UNKNOWN,
        widened_from=next((one.widened_from for one in parts if one.widened_from), None),
        switches=tuple(dict.fromkeys(name for one in parts for name in one.switches)),
        files=tuple(file for one in parts for file in _as_files(one, files[0])) if files else (),
        tensor=HostTensor(np.concatenate(tensors), "float16") if tensors else None,
        endpoint=", ".join(endpoints) or None,
        revision=first.revision if len(revisions) == 1 else None,
    )


def _as_files(part: Decoded, like: bytes) -> Iterable[bytes]:
    """A part's files; of pixels those that this job's other endpoints would have given: a PNG, or a JPEG of 75."""
    if part.pixels is None:
        return part.files
    is_jpeg = like.startswith(JPEG_SIGNATURE)
    return [
        encode_pixels(one, "jpeg", quality=JPEG_QUALITY) if is_jpeg else encode_pixels(one, "png")
        for one in part.pixels
    ]


def _question(
    spec: JobSpec, part: npt.NDArray[Any], dtype: str, vae: VaeEntry, entry: EndpointEntry, keeps: bool
) -> Question:
    form = _form(spec, entry, keeps)
    values = len(part) * spec.height * spec.width * spec.picture_channels
    most_bytes = {"pixels": values, "tensor": FLOAT_BYTES * values}.get(form, values + FILE_ROOM_BYTES)
    # Its own serializer: row by row and little-endian, however the array lies in memory.
    body = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).tobytes()
    params: tuple[tuple[str, str], ...] = ()
    content_type = "tensor/binary"
    if entry.protocol == "v1":
        body, content_type = _first_body(spec, part.shape, dtype, body), "application/json"
    else:
        params = (
            *zip(("image_format", "output_type", "partial_postprocess"), SAID[form], strict=True),
            *(("shape", str(size)) for size in part.shape),
            ("dtype", dtype),
            *_scaling(spec, vae, entry),
            *((name, str(size)) for name, size in _sizes(spec, part.shape).items()),
            *((("reproducible", "True"),) if spec.reproducible else ()),
        )
    headers = {"Content-Type": content_type, "Accept": TYPES[form][0]}
    return Question(params, headers, body, len(part), most_bytes, form, keeps and form == spec.image_format)


def _form(spec: JobSpec, entry: EndpointEntry, keeps: bool) -> Form:
    """The reply that is asked for. The first generation gives files alone."""
    if spec.output_type == "pt":
        return "tensor"
    if keeps and spec.image_format == "png":
        return "png"
    if keeps and spec.image_format == "jpeg" and spec.quality == JPEG_QUALITY:
        return "jpeg"
    return "pixels" if entry.protocol == "v2" else "png"


def _scaling(spec: JobSpec, vae: VaeEntry, entry: EndpointEntry) -> tuple[tuple[str, str], ...]:
    """How the latents are to be scaled, which is never left unsaid: silence means either, by the server's age.

    `do_scaling=False` is what clients with denormalised latents send today and sent from the first, so that every
    generation knows it; it is right for VAEs without a factor too, and no shift of the server's own can remain, as it
    could beside scaling_factor=1.
    """
    if not spec.normalised:
        return (("do_scaling", "False"),)
    for of in (spec, entry, vae):
        if of.scaling_factor is not None:
            factors = {"scaling_factor": of.scaling_factor, "shift_factor": of.shift_factor}
            return tuple((name, repr(float(value))) for name, value in factors.items() if value is not None)
    return (("do_scaling", "True"),)


def _sizes(spec: JobSpec, shape: tuple[int, ...]) -> dict[str, int]:
    """Pixels, which tokens alone do not tell by their shape."""
    return {"height": spec.height, "width": spec.width} if len(shape) == 3 else {}


def _first_body(spec: JobSpec, shape: tuple[int, ...], dtype: str, data: bytes) -> bytes:
    parameters = {"shape": list(shape), "dtype": dtype, **_sizes(spec, shape)}
    return json.dumps({"inputs": base64.b64encode(data).decode(), "parameters": parameters}).encode()
