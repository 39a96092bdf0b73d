"""What an operator asks over HTTP: pauses, failed and waiting jobs, devices, endpoints. For admins alone.

Long lists come as JSON lines, as they are read: neither side ever holds all of them.
"""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

from aiohttp import web
from pydantic_core import to_json

from vaefarm_shared.errors import InvalidOption

from .desk import desk_of
from .jobs import json_answer
from .models import ChangedAnswer, DevicesAnswer, DevicesQuery, EndpointsAnswer, ListQuery, QueuedQuery
from .problems import validated

#: Lines that are read at a time.
PAGE: Final[int] = 500

#: What JSON lines are called.
LINES: Final[str] = "application/x-ndjson"


async def pause_vae(request: web.Request) -> web.Response:
    """Let no worker take jobs of a VAE; they are still taken in, and those in hand go on."""
    desk, vae = desk_of(request), request.match_info["vae"]
    await desk.call(desk.transport.contract, vae)
    return json_answer(ChangedAnswer(changed=await desk.call(desk.transport.pause, vae)))


async def resume_vae(request: web.Request) -> web.Response:
    """Let workers take jobs of a VAE again."""
    desk = desk_of(request)
    return json_answer(ChangedAnswer(changed=await desk.call(desk.transport.resume, request.match_info["vae"])))


async def get_failed(request: web.Request) -> web.StreamResponse:
    """The failed jobs of a VAE, or of all, in no order, one a line."""
    query = validated(ListQuery, dict(request.query))
    failed = desk_of(request).transport.failed(query.vae)
    return await _answer_lines(request, (asdict(job) for job in islice(failed, query.limit)))


async def get_queued(request: web.Request) -> web.StreamResponse:
    """The ids of a VAE's waiting jobs, some perhaps twice, one a line."""
    query = validated(QueuedQuery, dict(request.query))
    queued = desk_of(request).transport.queued(query.vae)
    return await _answer_lines(request, ({"id": job_id} for job_id in islice(queued, query.limit)))


async def get_devices(request: web.Request) -> web.Response:
    """The devices that workers have, that failed of late or are quarantined; with `quarantined=true` those alone."""
    desk, query = desk_of(request), validated(DevicesQuery, dict(request.query))
    devices = await desk.call(desk.transport.quarantined if query.quarantined else desk.transport.devices)
    return json_answer(DevicesAnswer(devices=devices))


async def release_device(request: web.Request) -> web.Response:
    """Let a quarantined device be used again."""
    desk, device_id = desk_of(request), request.match_info["device_id"]
    if not device_id.isprintable():
        raise InvalidOption("the device's id holds characters that none has; GET /v1/devices names them")
    return json_answer(ChangedAnswer(changed=await desk.call(desk.transport.release, device_id)))


async def get_endpoints(request: web.Request) -> web.Response:
    """The remote endpoints that living workers ask, one for each worker."""
    desk = desk_of(request)
    return json_answer(EndpointsAnswer(endpoints=await desk.call(desk.transport.endpoints)))


async def _answer_lines(request: web.Request, lines: Iterator[dict[str, Any]]) -> web.StreamResponse:
    """Objects as JSON lines. The first page is read before the answer begins, so that an error has its status."""
    desk = desk_of(request)

    def page() -> bytes:
        return b"".join(to_json(line) + b"\n" for line in islice(lines, PAGE))

    text = await desk.call(page)
    answer = web.StreamResponse()
    answer.content_type = LINES
    await answer.prepare(request)
    while text:
        await answer.write(text)
        text = await desk.call(page)
    await answer.write_eof()
    return answer
