"""The Hugging Face remote-VAE protocol: `/hf/{vae}`, and `/` for the default VAE. docs/remote_vae.md is its manual.

One request is one job: it is queued, waited for, and its result is the reply. `x-job-id` names it in every answer from
then on, so that what a client gave up on can be had from `/v1/jobs/{id}`, as long as it is kept.
"""

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial, wraps
from typing import Any, Final

from aiohttp import web

from vaefarm_shared.errors import FarmError, FarmUnavailable, InvalidInput, JobFailed, UnknownVae, WaitTimeout
from vaefarm_shared.job import TERMINAL_STATUSES, Task
from vaefarm_shared.job_ids import new_job_id
from vaefarm_shared.records import JobRecord

from ..result import report_of
from .access import principal_of
from .believed import Believed
from .bodies import ROOM
from .desk import DESK, Desk, desk_of
from .hf_parameters import Scaled, scaling
from .hf_reply import make_reply, provenance
from .hf_request import prepare_asked, read_request, task_of
from .hf_vae import BELIEVED_SECONDS, WORKERS, contract_of, need_worker, read_loadable, vae_of
from .hf_wanted import Wanted, wanted
from .problems import Handler, farm_problem
from .standing import standing_for
from .submitting import inherited_trace, owned_by, send

logger = logging.getLogger(__name__)

#: Hugging Face's own: whoever sends it waits for a worker that is yet to come.
SCALE_UP: Final[str] = "X-Scale-Up-Timeout"


def add_hf(app: web.Application) -> None:
    """Give an application what the handlers keep in it."""
    app[WORKERS] = Believed(partial(read_loadable, app[DESK]), BELIEVED_SECONDS)


def answers_as_hf(handler: Handler) -> Handler:
    """Give errors the statuses of the protocol: 400 for what the client did wrong, where /v1 says 422."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except FarmError as error:
            return farm_problem(error, status_of(error))

    return answer


def status_of(error: FarmError) -> int:
    """The protocol's status for an error. A failed job is 400 as there: to repeat it would fail again."""
    if isinstance(error, UnknownVae):
        return 404
    if isinstance(error, JobFailed) or (isinstance(error, InvalidInput) and error.http_status == 422):
        return 400
    return error.http_status


@answers_as_hf
async def post_vae(request: web.Request) -> web.StreamResponse:
    """Decode or encode, whichever the request carries."""
    return await _post(request, None)


@answers_as_hf
async def post_decode(request: web.Request) -> web.StreamResponse:
    """Decode latents."""
    return await _post(request, "decode")


@answers_as_hf
async def post_encode(request: web.Request) -> web.StreamResponse:
    """Encode a picture."""
    return await _post(request, "encode")


@answers_as_hf
async def get_vae(request: web.Request) -> web.StreamResponse:
    """That the farm knows the VAE."""
    await contract_of(desk_of(request), request.match_info["vae"])
    return web.Response(text="Ok")


@answers_as_hf
async def get_vae_health(request: web.Request) -> web.StreamResponse:
    """That a worker serves the VAE now."""
    vae = request.match_info["vae"]
    await contract_of(desk_of(request), vae)
    await need_worker(request, vae)
    return web.Response(text="Ok")


async def _post(request: web.Request, task: Task | None) -> web.Response:
    """Read a request, queue its job, wait for its end, and answer."""
    job_id, reply, scaled = await _queue(request, task)
    return await _answer(request, job_id, reply, scaled)


async def _queue(request: web.Request, task: Task | None) -> tuple[str, Wanted, Scaled]:
    """Read a request and queue its job: its id, and the reply that is wanted.

    The job's bytes go with this frame, before any wait: the room counts them no longer.
    """
    desk, vae = desk_of(request), await vae_of(request)
    contract = await contract_of(desk, vae)
    async with request.app[ROOM].hold() as share:
        asked = await read_request(request, share)
        task = task or task_of(asked, contract)
        reply = wanted(request.headers.get("Accept", ""), asked.said, task, contract.temporal_scale is not None)
        scaled = scaling(asked.said, "model" if asked.is_json or desk.settings.hf_scales else "none")
        more = _circumstances(request, scaled) | ({"reproducible": True} if asked.said.reproducible else {})
        job = await desk.call(prepare_asked, desk, vae, task, asked, reply, scaled, more, new_job_id())
        del asked
        if not request.headers.get(SCALE_UP):
            await need_worker(request, vae, job.spec)
        owned = owned_by(principal_of(request), job)
        sending = asyncio.ensure_future(send(desk, principal_of(request), [owned]))
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            await _forget(request, job.spec.id, sending)
            raise
    return job.spec.id, reply, scaled


def _circumstances(request: web.Request, scaled: Scaled) -> dict[str, Any]:
    """Options that say nothing of the picture. A job's result and latents are kept for minutes: its client has it."""
    kept = desk_of(request).settings.hf_result_seconds
    more: dict[str, Any] = {
        "metadata": {"protocol": "hf", "scaling": scaled.choice},
        # They are ours, not the client's, whose reply has the protocol's own bytes.
        "embed_metadata": False,
        "result_seconds": kept,
        "failure_seconds": kept,
    }
    return more | inherited_trace(request.headers)


async def _answer(request: web.Request, job_id: str, reply: Wanted, scaled: Scaled) -> web.Response:
    """Wait for a job's end, and answer with its result or its error, naming it."""
    desk = desk_of(request)
    try:
        answer = await desk.carry(_result, desk, await _ended(request, job_id), reply)
    except FarmError as error:
        answer = farm_problem(error, status_of(error), id=job_id)
    except asyncio.CancelledError:
        await _forget(request, job_id)
        raise
    answer.headers["x-job-id"] = job_id
    answer.headers["x-scaling"] = scaled.choice
    return answer


async def _ended(request: web.Request, job_id: str) -> JobRecord:
    """The record of a job that has ended. Raises WaitTimeout, and FarmUnavailable where the gateway stops."""
    desk = desk_of(request)
    seconds = desk.settings.wait_seconds
    record = (await standing_for(request, job_id, seconds)).record
    if record.status in TERMINAL_STATUSES:
        return record
    if desk.follower.stopping:
        raise FarmUnavailable(f"this gateway stops; job {job_id!r} lives on: GET /v1/jobs/{job_id}, or send it again")
    raise WaitTimeout(
        f"job {job_id!r} has not ended within {seconds:g} seconds; it lives on: GET /v1/jobs/{job_id}/image has what"
        " comes of it"
    )


def _result(desk: Desk, record: JobRecord, reply: Wanted) -> web.Response:
    """The reply out of a job's result; blocks. Raises JobFailed, JobCanceled, JobExpired."""
    report = report_of(record)
    answer = make_reply(reply, [desk.transport.stored(record.id, one) for one in report.stored])
    answer.headers.update(provenance(report))
    return answer


async def _forget(request: web.Request, job_id: str, sending: Awaitable[object] | None = None) -> None:
    """Cancel the job of a client that has gone: nobody has seen its id. A gateway that stops cancels nothing."""
    desk = desk_of(request)
    if desk.follower.stopping:
        # Then nobody's going is a client's.
        return
    try:
        if sending is not None:
            # What is on its way could not be canceled yet.
            await sending
        await desk.carry(desk.transport.cancel, job_id)
    except FarmError as error:
        logger.warning("job %s, whose client has gone, is not canceled: %s", job_id, error, extra={"job_id": job_id})
