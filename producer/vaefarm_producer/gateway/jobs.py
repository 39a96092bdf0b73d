"""`/v1/jobs`: submit, ask, wait, cancel."""

from typing import Final

from aiohttp import web
from pydantic import BaseModel

from vaefarm_shared.errors import JobExpired
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus
from vaefarm_shared.job_ids import check_job_id, new_job_id
from vaefarm_shared.reading import Standing

from .access import principal_of
from .bodies import ROOM, read_body
from .desk import desk_of
from .models import StatusAnswer, StatusQuery
from .problems import farm_problem, validated
from .standing import answer_of, job_id_of, read_standing, standing_for, wait_of
from .submitting import body_limit, options_from_query, prepare_body, read_json, send

#: Bytes of a body that is JSON and nothing but.
MAX_JSON: Final[int] = 256 * 1024


async def post_job(request: web.Request) -> web.Response:
    """Queue a job under an id of the farm's."""
    return await _submit_and_answer(request, new_job_id())


async def put_job(request: web.Request) -> web.Response:
    """Queue a job under an id of the caller's; the same again changes nothing."""
    return await _submit_and_answer(request, job_id_of(request))


async def _submit_and_answer(request: web.Request, job_id: str) -> web.Response:
    await _submit(request, job_id)
    return await _answer_waiting(request, job_id, accepted=True)


async def _submit(request: web.Request, job_id: str) -> None:
    """Queue a request's job. Its bytes go with this frame, before any wait: the room counts them no longer."""
    desk, principal = desk_of(request), principal_of(request)
    options = options_from_query(request.query, request.headers)
    if options.task == "decode" and request.content_type.startswith("image/"):
        options = options.model_copy(update={"task": "encode"})
    async with request.app[ROOM].hold() as share:
        body = await read_body(request, share, body_limit(options))
        prepared = await desk.call(prepare_body, desk, principal, body, options, job_id)
        del body
        await send(desk, principal, [prepared])


async def get_job(request: web.Request) -> web.Response:
    """How a job stands; with `Prefer: wait=N` once it has ended."""
    return await _answer_waiting(request, job_id_of(request), accepted=False)


async def _answer_waiting(request: web.Request, job_id: str, *, accepted: bool) -> web.Response:
    """How a job stands, after waiting for its end as long as was wished."""
    wait = wait_of(request)
    standing = await standing_for(request, job_id, wait)
    answer = await answer_standing(request, standing, accepted=accepted)
    if wait:
        answer.headers["Preference-Applied"] = f"wait={int(wait)}"
    return answer


async def answer_standing(request: web.Request, standing: Standing, *, accepted: bool) -> web.Response:
    """How a job stands, as an answer: 410 for an expired one, 202 for one that was just taken and has not ended."""
    record = standing.record
    if record.status is JobStatus.EXPIRED:
        gone = JobExpired(f"job {record.id!r} has expired: {record.reason or 'its result is past its life'}")
        return farm_problem(gone, id=record.id, status_of_job=record.status.value, reason=record.reason)
    answer = json_answer(await answer_of(request, standing))
    if accepted:
        answer.set_status(200 if record.status in TERMINAL_STATUSES else 202)
        answer.headers["Location"] = f"/v1/jobs/{record.id}"
    return answer


async def delete_job(request: web.Request) -> web.Response:
    """Cancel a job that has not ended; remove one that has."""
    desk, job_id = desk_of(request), job_id_of(request)
    standing = await standing_for(request, job_id)
    if standing.record.status not in TERMINAL_STATUSES and await desk.carry(desk.transport.cancel, job_id):
        return json_answer(await answer_of(request, await read_standing(desk, job_id)))
    await desk.carry(desk.transport.discard, job_id)
    return web.Response(status=204)


async def cancel_job(request: web.Request) -> web.Response:
    """Cancel a job that has not ended; one that has is left as it is."""
    desk, job_id = desk_of(request), job_id_of(request)
    await standing_for(request, job_id)
    await desk.carry(desk.transport.cancel, job_id)
    return await answer_standing(request, await read_standing(desk, job_id), accepted=False)


async def retry_job(request: web.Request) -> web.Response:
    """Put a failed job back on its queue; 200 in place of 202 for one that has not failed, which is left as it is."""
    desk, job_id = desk_of(request), job_id_of(request)
    await standing_for(request, job_id)
    retried = await desk.call(desk.transport.retry, job_id)
    return await answer_standing(request, await read_standing(desk, job_id), accepted=retried)


async def read_ids(request: web.Request) -> list[str]:
    """The ids of a body `{"ids": [...]}`. Raises InvalidOption, InvalidJobId."""
    async with request.app[ROOM].hold() as share:
        raw = read_json(await read_body(request, share, MAX_JSON), "the body")
    return [check_job_id(job_id) for job_id in validated(StatusQuery, raw).ids]


async def post_statuses(request: web.Request) -> web.Response:
    """The status of each of many jobs; null for those that the caller knows nothing of."""
    desk, principal = desk_of(request), principal_of(request)
    found = await desk.call(desk.transport.owned_statuses, await read_ids(request))
    return json_answer(
        StatusAnswer(statuses=[one[0] if one is not None and principal.sees(one[1]) else None for one in found])
    )


async def post_cancels(request: web.Request) -> web.Response:
    """Cancel each of many jobs that has not ended."""
    desk, principal = desk_of(request), principal_of(request)
    ids = await read_ids(request)
    found = await desk.call(desk.transport.owned_statuses, ids)
    seen = [job_id for job_id, one in zip(ids, found, strict=True) if one is not None and principal.sees(one[1])]
    statuses = dict(zip(seen, await desk.carry(desk.transport.cancel_many, seen), strict=True))
    return json_answer(StatusAnswer(statuses=[statuses.get(job_id) for job_id in ids]))


def json_answer(answer: BaseModel, status: int = 200) -> web.Response:
    """A model as JSON; what is not known is left out."""
    return web.Response(
        body=answer.model_dump_json(exclude_none=True).encode(), status=status, content_type="application/json"
    )
