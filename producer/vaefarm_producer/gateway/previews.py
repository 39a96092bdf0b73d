"""`/v1/jobs/{id}/preview`: the newest preview of a job that has not ended, or is yet to come."""

import asyncio
from contextlib import suppress
from typing import Final, cast

from aiohttp import ETag, web

from vaefarm_shared.errors import InvalidLatents, JobExpired, JobNotFound, WaitTimeout
from vaefarm_shared.previews import Preview, preview_id
from vaefarm_shared.records import ImageRecord

from ..previews import prepare_step
from ..submission import DecodeOptions, PreparedJob
from .access import Principal, need_sight, principal_of
from .bodies import ROOM, read_body
from .copies import has_copy, not_modified
from .desk import Desk, desk_of
from .direct import content_type_of
from .follower import GatewayStops
from .jobs import json_answer
from .models import StepAnswer, StepOptions
from .pictures import ASK_AGAIN_SECONDS, etag_of, index_of
from .problems import farm_problem, validated
from .standing import job_id_of, wait_of
from .submitting import body_limit, latents_of, owned_by, raw_options

#: A page that shows it asks each time, and is told where nothing is new.
CACHE_CONTROL: Final[str] = "private, no-cache"

#: What a step's preview is answered where it does not wait.
NOT_QUEUED: Final[dict[int, str]] = {200: "A worker has an earlier one, or the job has ended."}


async def get_preview(request: web.Request) -> web.StreamResponse:
    """The newest preview; with `Prefer: wait=N` once there is another than `If-None-Match` names, or the job ended."""
    desk, job_id, index = desk_of(request), job_id_of(request), index_of(request)
    state = await _state_for(request, job_id, index)
    one = _picture(state, index)
    if one is None:
        return _none_yet(job_id, state, index)
    tag = etag_of(one)
    if _is_seen(request, one):
        return not_modified(tag, CACHE_CONTROL)
    try:
        data = await desk.carry(desk.transport.stored, job_id, one)
    except JobExpired:
        # A newer one took its place since, or its job has ended.
        return _ask_again(job_id)
    answer = web.Response(body=data, content_type=content_type_of(one), headers={"Cache-Control": CACHE_CONTROL})
    answer.etag = ETag(tag)
    return answer


async def put_preview(request: web.Request) -> web.Response:
    """Queue a step's preview, in the place of one that waits."""
    desk, principal, job_id = desk_of(request), principal_of(request), job_id_of(request)
    options = validated(StepOptions, raw_options(request.query))
    async with request.app[ROOM].hold() as share:
        body = await read_body(request, share, body_limit(options))
        prepared = await desk.call(_prepared, desk, principal, body, options, job_id)
        del body
        verdict = await desk.carry(desk.transport.put_preview_within, prepared, principal.max_in_flight)
    return json_answer(StepAnswer(verdict=verdict), 202 if verdict in ("queued", "same") else 200)


async def delete_preview(request: web.Request) -> web.Response:
    """Remove a preview, whatever became of it."""
    desk, job_id = desk_of(request), job_id_of(request)
    if not await desk.carry(desk.transport.drop_preview, job_id, principal_of(request).owner):
        raise JobNotFound(f"job {job_id!r} has no preview, as far as you may know")
    return web.Response(status=204)


def _prepared(desk: Desk, principal: Principal, body: bytes, options: StepOptions, job_id: str) -> PreparedJob:
    if options.dtype == "uint8":
        raise InvalidLatents("dtype is uint8; expected latents, of float16, bfloat16 or float32")
    chosen = options.model_dump(exclude_none=True, include=set(DecodeOptions.__annotations__))
    contract = desk.transport.contract(options.vae)
    step = prepare_step(latents_of(body, options), options.vae, contract, job_id, cast("DecodeOptions", chosen))
    return owned_by(principal, step)


async def _state_for(request: web.Request, job_id: str, index: int) -> Preview:
    """How the preview stands, for one who may know of it, after waiting for a new one as long as was wished.

    Raises JobNotFound, FarmUnavailable.
    """
    desk, wait = desk_of(request), wait_of(request)
    if not wait or desk.follower.stopping:
        return await _read(request, job_id)
    await desk.follower.ready()
    with desk.follower.waiting(job_id, preview_id(job_id)) as news:
        # Read behind the subscription: what happened before it shows here, what happens after it is told.
        state = await _read(request, job_id)
        with suppress(TimeoutError, GatewayStops):
            async with asyncio.timeout(wait):
                while not state.is_over and _is_seen(request, _picture(state, index)):
                    await news.get()
                    state = await _read(request, job_id)
    return state


async def _read(request: web.Request, job_id: str) -> Preview:
    desk = desk_of(request)
    state = await desk.call(desk.transport.preview_state, job_id)
    need_sight(request, job_id, state.owner)
    return state


def _picture(state: Preview, index: int) -> ImageRecord | None:
    images = state.report.images if state.report is not None else ()
    return images[index] if index < len(images) else None


def _is_seen(request: web.Request, one: ImageRecord | None) -> bool:
    """Whether there is nothing that the caller has not."""
    return one is None or has_copy(request, etag_of(one))


def _none_yet(job_id: str, state: Preview, index: int) -> web.Response:
    if state.is_over:
        gone = JobExpired(
            f"the preview of job {job_id!r} went as the job ended: it is {state.status}; ask for its picture"
        )
        return farm_problem(gone, id=job_id, status_of_job=state.status)
    if state.report is not None:
        raise JobNotFound(
            f"the preview of job {job_id!r} has no picture {index}; it has {len(state.report.images)}, from 0"
        )
    if not state.is_awaited:
        raise JobNotFound(f"job {job_id!r} has no preview: it was submitted without, or none could be made")
    return _ask_again(job_id)


def _ask_again(job_id: str) -> web.Response:
    answer = farm_problem(WaitTimeout(f"the preview of job {job_id!r} is not made yet; ask again"), 409, id=job_id)
    answer.headers["Retry-After"] = str(ASK_AGAIN_SECONDS)
    return answer
