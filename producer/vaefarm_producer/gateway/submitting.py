"""From a request to a job on its queue."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import numpy as np
from aiohttp import web
from multidict import MultiMapping

from vaefarm_shared import latents, tracing
from vaefarm_shared.checks import MAX_LATENT_BYTES
from vaefarm_shared.errors import InvalidLatents, InvalidOption
from vaefarm_shared.images import IMAGE_STORAGE, Images
from vaefarm_shared.job import JobSpec, JobStatus
from vaefarm_shared.latents import Latents
from vaefarm_shared.picture_files import is_picture_file

from ..encoding import EncodeOptions, prepare_encode
from ..previews import prepare_with_preview
from ..submission import PreparedJob, SubmitOptions
from .access import Principal
from .desk import Desk
from .models import Options, StepOptions, TensorOptions
from .problems import validated
from .webhook_hosts import check_webhook

#: The pictures that an encode takes.
PICTURES: Final[frozenset[str]] = frozenset({"image/png", "image/jpeg", "image/webp"})

#: The lane of jobs that name none.
DEFAULT_LANE: Final[str] = JobSpec.model_fields["producer"].default

#: Parameters that may be given more than once.
REPEATED: Final[frozenset[str]] = frozenset({"shape"})


def options_from_query(query: MultiMapping[str], headers: Mapping[str, str]) -> TensorOptions:
    """The options in a query; `metadata` as JSON. Raises InvalidOption for the first that is not known or allowed."""
    return options_from(raw_options(query), headers)


def raw_options(query: MultiMapping[str]) -> dict[str, Any]:
    """The options in a query, unchecked. Raises InvalidOption for one that was given twice, and for bad JSON."""
    raw: dict[str, Any] = {}
    for name in query:
        values = query.getall(name)
        if name in REPEATED:
            raw[name] = [part for value in values for part in value.split(",")]
        elif len(values) > 1:
            raise InvalidOption(f"{name} was given {len(values)} times; expected once")
        else:
            raw[name] = values[0]
    if "metadata" in raw:
        raw["metadata"] = read_json(raw["metadata"].encode(), "metadata")
    return raw


def options_from(raw: Any, headers: Mapping[str, str]) -> TensorOptions:
    """The options in a JSON object. Raises InvalidOption."""
    if not isinstance(raw, dict):
        raise InvalidOption(f"the options are a {type(raw).__name__}; expected a JSON object")
    return validated(TensorOptions, inherited_trace(headers) | raw)


def inherited_trace(headers: Mapping[str, str]) -> dict[str, str]:
    """The `traceparent` of a job that says none: of the request's own span, which is a child of the header's; without
    tracing the header. One that is none costs nobody their job."""
    found = tracing.current() or headers.get("traceparent", "")
    return {"traceparent": found} if tracing.is_traceparent(found) else {}


def read_json(body: bytes, what: str) -> Any:
    """A JSON text's value. Raises InvalidOption for what is none, or is nested too deep to be read."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{what} is no JSON that can be read: {error}") from error


def given(options: Options) -> dict[str, Any]:
    """What was said, for the Python client's functions."""
    return options.model_dump(exclude_none=True, exclude={"vae", "task", "shape", "dtype"})


def body_limit(options: TensorOptions | StepOptions) -> int:
    """Bytes that the body may have: of a raw tensor just its own. Raises InvalidLatents for what is no shape."""
    if options.shape is None and options.dtype is None:
        return MAX_LATENT_BYTES
    return tensor_bytes(options.shape, options.dtype)


def tensor_bytes(shape: tuple[int, ...] | None, dtype: str | None) -> int:
    """Bytes of a raw tensor. Raises InvalidLatents where one of both is missing, or is none that is taken."""
    if shape is None or dtype is None:
        missing = "shape" if shape is None else "dtype"
        raise InvalidLatents(f"{missing} is missing; a raw tensor needs `shape` and `dtype`")
    count = 1
    for size in shape:
        if size < 1:
            raise InvalidLatents(f"shape {list(shape)} has a side of {size}; expected 1 or more")
        count *= size
    if not 3 <= len(shape) <= 5:
        raise InvalidLatents(f"shape {list(shape)} has {len(shape)} dimensions; expected 3, 4 or 5")
    size = count * (1 if dtype == "uint8" else np.dtype(latents.STORAGE[dtype]).itemsize)
    if size > MAX_LATENT_BYTES:
        raise InvalidLatents(f"shape {list(shape)} in {dtype} takes {size} bytes; at most {MAX_LATENT_BYTES} are taken")
    return size


def raw_tensor(shape: tuple[int, ...] | None, dtype: str | None) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of a raw tensor that is taken. Raises as `tensor_bytes`."""
    tensor_bytes(shape, dtype)
    assert shape is not None
    assert dtype is not None
    return shape, dtype


def read_array(body: bytes, shape: tuple[int, ...], dtype: str) -> Any:
    """A raw tensor as an array in the storage of its dtype. Raises InvalidLatents unless the body is just as long."""
    wanted = tensor_bytes(shape, dtype)
    if len(body) != wanted:
        raise InvalidLatents(f"the body has {len(body)} bytes; shape {list(shape)} in {dtype} takes {wanted}")
    storage = np.uint8 if dtype == "uint8" else latents.STORAGE[dtype]
    return np.frombuffer(body, dtype=np.dtype(storage).newbyteorder("<")).reshape(shape)


def prepare_body(
    desk: Desk, principal: Principal, body: bytes, options: TensorOptions, job_id: str | None
) -> PreparedJob:
    """Check a body and its options, and pack them; blocks. Raises what `Farm.submit` and `Farm.encode` do."""
    check_webhook(options.webhook, desk.settings.webhook_hosts)
    contract = desk.transport.contract(options.vae)
    more = given(options)
    prepared: PreparedJob
    if options.task == "encode":
        image = _images(body, options) if options.shape or is_tensor_file(body) else body
        prepared = prepare_encode(image, options.vae, contract, job_id, cast("EncodeOptions", more))
    else:
        given_latents, contract_of = latents_of(body, options), desk.transport.contract
        prepared = prepare_with_preview(given_latents, options.vae, contract_of, job_id, cast("SubmitOptions", more))
    if prepared.preview is not None and principal.max_in_flight == 1:
        raise InvalidOption("a preview is a job of its own, and this key may have one at a time; leave preview out")
    return owned_by(principal, prepared)


def owned_by(principal: Principal, job: PreparedJob) -> PreparedJob:
    """A job as its key's: seen by that key, and in a lane of its own where it names none, so that keys take turns."""
    named = {"owner": principal.owner}
    if not principal.is_admin and job.spec.producer == DEFAULT_LANE:
        named["producer"] = principal.name
    preview = None if job.preview is None else owned_by(principal, job.preview)
    return PreparedJob(job.spec.model_copy(update=named), job.packed, preview)


def latents_of(body: bytes, options: TensorOptions | StepOptions) -> Latents:
    """The latents of a body: a safetensors file, or a raw tensor. Raises InvalidLatents."""
    if options.shape is None and options.dtype is None:
        if is_picture_file(body):
            raise InvalidLatents("the body is a picture; expected latents to decode, or task=encode to encode it")
        return latents.unpack(body)
    shape, dtype = raw_tensor(options.shape, options.dtype)
    latents.check_dtype(dtype)
    return Latents(read_array(body, shape, dtype), dtype)


def is_tensor_file(body: bytes) -> bool:
    """Whether a body begins as a safetensors file does, and no picture's: with a JSON object behind its length."""
    return body[8:9] == b"{" and int.from_bytes(body[:8], "little") < len(body)


def _images(body: bytes, options: TensorOptions) -> Images:
    """An image tensor, as `Farm.encode` takes it."""
    if options.shape is None:
        return Images(*latents.read_tensor(body, IMAGE_STORAGE))
    return Images(read_array(body, options.shape, options.dtype or "uint8"), options.dtype or "uint8")


async def send(desk: Desk, principal: Principal, jobs: Iterable[PreparedJob]) -> list[JobStatus]:
    """Put checked jobs on their queues. Raises JobConflict, JobNotFound for another's id, QueueFull, QuotaExceeded."""
    return await desk.carry(desk.transport.submit_within, list(jobs), principal.max_in_flight)


def content_type(request: web.Request) -> str:
    """The body's type, '' where none was said (aiohttp says octet-stream then)."""
    return request.content_type if "Content-Type" in request.headers else ""
