"""`/v1/jobs/{id}/image/{index}`: the bytes of what a job made, with ETag and ranges, or where they lie."""

import hashlib
from typing import Final

from aiohttp import ETag, web

from vaefarm_shared.errors import InvalidOption, JobNotFound, WaitTimeout
from vaefarm_shared.records import BlobRecord, JobRecord

from ..result import report_of
from .copies import has_copy, not_modified
from .desk import desk_of
from .direct import content_type_of, file_name
from .models import PictureQuery
from .pieces import in_pieces
from .problems import farm_problem, validated
from .standing import job_id_of, standing_for, wait_of

#: Seconds after which to ask again for the picture of a job that has not ended.
ASK_AGAIN_SECONDS: Final[int] = 1

#: The same bytes lie under the same address as long as they lie there at all.
CACHE_CONTROL: Final[str] = "private, max-age=3600, immutable"


async def get_image(request: web.Request) -> web.StreamResponse:
    """A job's picture by its index (0 unless given), or its latents; with `Prefer: wait=N` once there is one."""
    desk, job_id, index = desk_of(request), job_id_of(request), index_of(request)
    record = (await standing_for(request, job_id, wait_of(request))).record
    try:
        one = stored_at(record, index)
    except WaitTimeout as error:
        answer = farm_problem(error, 409, id=job_id, status_of_job=record.status.value)
        answer.headers["Retry-After"] = str(ASK_AGAIN_SECONDS)
        return answer
    tag = etag_of(one)
    if has_copy(request, tag):
        return not_modified(tag, CACHE_CONTROL)
    if wants_redirect(request) and (link := await desk.carry(desk.links.link, job_id, index, one, request.method)):
        return web.Response(status=307, headers={"Location": link, "Cache-Control": "no-store"})
    data = await desk.carry(desk.transport.stored, job_id, one)
    answer = part_of(request, data, tag)
    answer.content_type = content_type_of(one)
    answer.etag = ETag(tag)
    answer.headers["Cache-Control"] = CACHE_CONTROL
    answer.headers["Content-Disposition"] = f'inline; filename="{file_name(job_id, index, one)}"'
    return answer


def index_of(request: web.Request) -> int:
    """The index in a request's path; 0 where there is none. Raises InvalidOption."""
    text = request.match_info.get("index", "0")
    if not text.isdecimal() or len(text) > 6:
        raise InvalidOption(f"index {text[:20]!r} is no number; expected one from 0")
    return int(text)


def wants_redirect(request: web.Request) -> bool:
    """Whether the request follows a link to where the bytes lie. Raises InvalidOption."""
    given = {name: value for name, value in request.query.items() if name in PictureQuery.model_fields}
    return bool(validated(PictureQuery, given).redirect)


def stored_at(record: JobRecord, index: int) -> BlobRecord:
    """What a finished job stored at an index.

    Raises:
        JobFailed, JobCanceled, JobExpired: it ended without a result.
        WaitTimeout: it has not ended.
        JobNotFound: it has nothing at that index.
    """
    stored = report_of(record).stored
    if index >= len(stored):
        raise JobNotFound(f"job {record.id!r} has no picture {index}; it has {len(stored)}, counted from 0")
    return stored[index]


def etag_of(one: BlobRecord) -> str:
    """A blob is never written twice under one name, so its name tells its content."""
    return hashlib.sha256(one.blob.encode()).hexdigest()[:32]


def part_of(request: web.Request, data: bytes, tag: str) -> web.Response:
    """All of the bytes, or the one range that was asked for; 416 for one that there is not."""
    wanted = request.headers.get("Range")
    if wanted is None or request.headers.get("If-Range", f'"{tag}"') != f'"{tag}"':
        return web.Response(body=in_pieces(data), headers={"Accept-Ranges": "bytes"})
    try:
        start, stop, _ = request.http_range.indices(len(data))
    except ValueError:
        # What is no range of bytes is no reason to give none: RFC 9110, 14.2.
        return web.Response(body=in_pieces(data), headers={"Accept-Ranges": "bytes"})
    if start >= stop:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
    headers = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
    return web.Response(status=206, body=in_pieces(data[start:stop]), headers=headers)
