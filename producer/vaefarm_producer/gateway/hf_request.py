"""A request of the Hugging Face remote-VAE protocol, of any of its generations, and the job that it asks for.

The generations: JSON with base64 and parameters (v1, the blog post's), base64 in JSON with parameters in the query
(v1.5), raw bytes with parameters in the query and, but for a time, headers (v2, today's).
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from aiohttp import web

from vaefarm_shared import latents
from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import BodyTooLarge, InvalidLatents, InvalidOption
from vaefarm_shared.images import Images
from vaefarm_shared.job import JobSpec, Task
from vaefarm_shared.latents import Latents
from vaefarm_shared.pictures import MAX_PICTURE_BYTES

from ..encoding import EncodeOptions, prepare_encode
from ..submission import PreparedJob, SubmitOptions, prepare, spec_of
from .bodies import Share, read_body
from .desk import Desk, desk_of
from .hf_parameters import OPTIONS, HfParameters, Scaled, from_query, parameters
from .hf_wanted import Wanted
from .submitting import content_type, raw_tensor, read_array, read_json, tensor_bytes

#: Content types of bodies that are JSON with base64 in it.
JSON_TYPES: Final = frozenset({"application/json", "tensor/base64"})

#: Bytes of a body that is JSON: latents of 4096 x 4096 pixels in 16 channels of float32, and more.
MAX_JSON_BYTES: Final[int] = 64 * 1024 * 1024

#: Bytes of the largest tensor in a reply, which this process makes in its memory, in three times as many.
MAX_REPLY_BYTES: Final[int] = 256 * 1024 * 1024

#: How the files of pictures begin.
MAGIC: Final[tuple[bytes, ...]] = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF")


@dataclass(frozen=True, slots=True)
class Asked:
    """What came: parameters, and the bytes of a tensor or of a picture's file."""

    said: HfParameters
    data: bytes
    #: Whether it came as JSON: those generations scale where nothing is said of it.
    is_json: bool
    content_type: str


async def read_request(request: web.Request, share: Share) -> Asked:
    """Read a request's body and what it says.

    Raises:
        InvalidOption, InvalidLatents: it says what cannot be, or has more or fewer bytes than its shape.
        BodyTooLarge, IncompleteBody, QueueFull: as `read_body`.
    """
    kind, raw = content_type(request).lower(), from_query(request.query)
    if kind in JSON_TYPES:
        body = await read_body(request, share, MAX_JSON_BYTES)
        raw, data = await desk_of(request).call(read_v1, body, raw)
        return Asked(parameters(raw), data, True, kind)
    said = parameters(raw)
    if said.shape is None and said.dtype is None:
        return Asked(said, await read_body(request, share, MAX_PICTURE_BYTES), False, kind)
    wanted = tensor_bytes(said.shape, said.dtype)
    try:
        data = await read_body(request, share, wanted)
    except BodyTooLarge:
        if wanted > desk_of(request).settings.max_body_bytes:
            raise
        raise InvalidLatents(f"the body has more than the {wanted} bytes that {_described(said)} takes") from None
    return Asked(said, data, False, kind)


def read_v1(body: bytes, raw: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Parameters and bytes of `{"inputs": base64, "parameters": {...}}`; the query's parameters where it has none.

    Raises:
        InvalidOption: it is no such JSON.
        InvalidLatents: `inputs` is no base64.
    """
    found = read_json(body, "the body")
    inputs, more = (found.get("inputs"), found.get("parameters")) if isinstance(found, dict) else (None, None)
    if not isinstance(inputs, str):
        raise InvalidOption('the body has no base64 text in `inputs`; expected {"inputs": ..., "parameters": {...}}')
    if not isinstance(more, dict | None):
        raise InvalidOption(f"`parameters` is a {type(more).__name__}; expected a JSON object")
    try:
        data = base64.b64decode(inputs.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidLatents(f"`inputs` is no base64: {error}") from error
    return {**raw, **(more or {})}, data


def task_of(asked: Asked, contract: Contract) -> Task:
    """Whether a request to one address for both means a decode or an encode: only what it carries can tell.

    A picture's file, or a tensor with a picture's three channels where the VAE's latents have another number of them.
    """
    said, shape = asked.said, asked.said.shape
    if said.names_decode:
        return "decode"
    if shape is None and said.dtype is None:
        return "encode" if asked.data.startswith(MAGIC) or asked.content_type.startswith("image/") else "decode"
    if shape is None or len(shape) != 4:
        return "decode"
    if said.dtype == "uint8":
        return "encode" if shape[3] == 3 else "decode"
    return "encode" if shape[1] == 3 and contract.latent_channels != 3 else "decode"


def prepare_asked(
    desk: Desk, vae: str, task: Task, asked: Asked, reply: Wanted, scaled: Scaled, more: Mapping[str, Any], job_id: str
) -> PreparedJob:
    """Check what came and make it a job; blocks.

    Args:
        more: Further options of the job.

    Raises:
        InvalidLatents, InvalidPicture, InvalidOption: the first thing that is wrong.
    """
    contract, said = desk.transport.contract(vae), asked.said
    options = {**scaled.options, **reply.options, **more}
    if task == "encode":
        return prepare_encode(_images(asked), vae, contract, job_id, cast("EncodeOptions", options))
    given = {name: getattr(said, name) for name in ("height", "width", *OPTIONS)}
    words = cast("SubmitOptions", {name: value for name, value in given.items() if value is not None})
    shape, dtype = raw_tensor(said.shape, said.dtype)
    if reply.of_video:
        _check_video(reply, spec_of(shape, dtype, vae, contract, words))
    elif reply.content == "picture" and shape[0] != 1:
        raise InvalidLatents(
            f"latents of shape {shape} hold {shape[0]} pictures, and one reply holds one; send them one by one, or ask"
            " for a tensor: output_type=pt and Accept: tensor/binary"
        )
    prepared = prepare(_latents(asked), vae, contract, job_id, cast("SubmitOptions", {**options, **words}))
    if prepared.spec.output_type == "pt" and prepared.spec.tensor_bytes > MAX_REPLY_BYTES:
        raise InvalidLatents(
            f"the reply would be a tensor of {prepared.spec.tensor_bytes} bytes; at most {MAX_REPLY_BYTES} are given:"
            " send fewer latents at a time"
        )
    return prepared


def _check_video(reply: Wanted, spec: JobSpec) -> None:
    """Raise InvalidLatents for videos of which there is no such reply: several in one, or a tensor too large."""
    if reply.content != "raw" and spec.count != 1:
        raise InvalidLatents(
            f"latents of shape {spec.shape} hold {spec.count} videos, and one reply holds one; send them one by one, or"
            " ask for the raw tensor: output_type=pt"
        )
    size = spec.tensor_bytes // 2 if reply.content == "pixels" else spec.tensor_bytes
    if reply.content == "video" or size <= MAX_REPLY_BYTES:
        return
    fits = reply.content != "pixels" and size // 2 <= MAX_REPLY_BYTES
    half = ", or for half as many with output_type=pt and partial_postprocess=True" if fits else ""
    raise InvalidLatents(
        f"the reply would be a tensor of {size} bytes, {spec.num_frames} frames of {spec.width} x {spec.height}; at"
        f" most {MAX_REPLY_BYTES} are given: ask for the file with output_type=mp4{half}"
    )


def _latents(asked: Asked) -> Latents:
    shape, dtype = raw_tensor(asked.said.shape, asked.said.dtype)
    latents.check_dtype(dtype)
    held = Latents(read_array(asked.data, shape, dtype), dtype)
    if not held.is_finite():
        # The stock client sends other bytes than the tensor's where that lies on a GPU.
        raise InvalidLatents(
            f"latents of shape {held.shape} hold NaN or Inf; expected finite values: the generation went wrong, or the"
            " client read them after they were freed: call .cpu().contiguous() on them first"
        )
    return held


def _images(asked: Asked) -> bytes | Images:
    if asked.said.shape is None and asked.said.dtype is None:
        return asked.data
    shape, dtype = raw_tensor(asked.said.shape, asked.said.dtype)
    return Images(read_array(asked.data, shape, dtype), dtype)


def _described(said: HfParameters) -> str:
    return f"shape {list(said.shape or ())} in {said.dtype}"
