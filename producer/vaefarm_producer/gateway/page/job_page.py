"""`/jobs/{id}`: a job's page: the stages of its life, its record, what it made."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Final, NamedTuple

from aiohttp import web

from vaefarm_shared.errors import FarmUnavailable, JobNotFound
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus
from vaefarm_shared.job_ids import check_job_id
from vaefarm_shared.previews import Preview, preview_id
from vaefarm_shared.reading import Standing
from vaefarm_shared.records import BlobRecord, ImageRecord, JobRecord, VideoRecord

from ..desk import desk_of
from ..direct import content_type_of
from ..pictures import etag_of
from ..standing import job_id_of, standing_for
from ..streams import open_stream, send
from .board import event_of
from .drawing import changed, draw_sections, notice, page, plainly

#: Seconds after which a job that has not ended is looked at again, whatever is told of it: its place moves.
LOOK_SECONDS: Final[float] = 2.0

#: And one that has: it may be discarded, or past its life.
ENDED_LOOK_SECONDS: Final[float] = 30.0

#: Files that a page shows; more are named.
SHOWN: Final[int] = 32

#: Sections of a job's page, from the top down.
SECTIONS: Final = ("notice", "state", "results", "stages", "record")


class Stage(NamedTuple):
    """One stage of a job's life."""

    name: str
    #: Unix seconds by Redis' clock at which it began; None for what is counted and not timed.
    at: float | None
    #: Seconds that it took; None while it lasts.
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a job's life."""

    kind: str
    name: str
    #: Where it begins and how long it is, of a whole of 1.
    begin: float
    share: float


@dataclass(frozen=True, slots=True)
class Result:
    """Something that a job made."""

    index: int
    kind: str
    what: str
    size_bytes: int
    width: int
    height: int


async def find_job_page(request: web.Request) -> web.Response:
    """Go to the page of the job whose id was typed. Raises InvalidJobId."""
    raise web.HTTPSeeOther(f"/jobs/{check_job_id(request.query.get('id', '').strip())}")


async def get_job_page(request: web.Request) -> web.Response:
    """A job's page. Raises JobNotFound."""
    job_id = job_id_of(request)
    sections, _ = await look(request, job_id)
    return page(request, "job.html", job_id=job_id, sections=sections, events=f"/page/jobs/{job_id}/events")


async def job_page_events(request: web.Request) -> web.StreamResponse:
    """The sections of a job's page as they change, also beyond its end: a failed one may be retried."""
    desk, job_id = desk_of(request), job_id_of(request)
    await desk.follower.ready()
    with desk.follower.waiting(job_id, preview_id(job_id)) as news:
        sections, has_ended = await look(request, job_id)
        async with open_stream(request) as stream:
            await send(stream, event_of(sections))
            while stream.is_connected():
                with suppress(TimeoutError):
                    async with asyncio.timeout(ENDED_LOOK_SECONDS if has_ended else LOOK_SECONDS):
                        await news.get()
                shown, has_ended = await look_again(request, job_id)
                if told := changed(sections, shown):
                    sections |= told
                    await send(stream, event_of(told))
    return stream


async def look(request: web.Request, job_id: str) -> tuple[dict[str, str], bool]:
    """What a job's page shows, and whether the job has ended. Raises JobNotFound, FarmUnavailable."""
    desk, preview = desk_of(request), None
    standing = await standing_for(request, job_id)
    has_ended = standing.record.status in TERMINAL_STATUSES
    if not has_ended:
        with suppress(JobNotFound):
            preview = await desk.call(desk.transport.preview_state, job_id)
    return sections_of(standing, preview), has_ended


async def look_again(request: web.Request, job_id: str) -> tuple[dict[str, str], bool]:
    """As `look`, for a page that is open: what keeps it from being looked at is said on it."""
    try:
        return await look(request, job_id)
    except JobNotFound as error:
        # It was removed meanwhile.
        return {"notice": notice(error), "state": "", "results": ""}, True
    except FarmUnavailable as error:
        return {"notice": notice(error)}, False


def sections_of(standing: Standing, preview: Preview | None) -> dict[str, str]:
    """What a job's page shows."""
    record = standing.record
    results = results_of(record)
    previewed = preview.report.images if preview is not None and preview.report is not None else ()
    values: dict[str, Any] = {
        "standing": standing,
        "record": record,
        "report": record.report,
        "has_ended": record.status in TERMINAL_STATUSES,
        # Another address for each: what is shown is the newest.
        "previews": [(index, etag_of(one), one) for index, one in enumerate(previewed)],
        "may_retry": record.status is JobStatus.FAILED,
        "stages": stages_of(record),
        "bars": bars_of(record),
        "results": results[:SHOWN],
        "left_out": max(0, len(results) - SHOWN),
        "facts": facts_of(record),
        "message": None,
    }
    return draw_sections(SECTIONS, values)


def stages_of(record: JobRecord) -> list[Stage]:
    """The stages of a job's life that have begun."""
    stages = [Stage("queued", record.queued_at, _between(record.queued_at, record.started_at or record.ended_at))]
    report = record.report
    if record.started_at is not None:
        stages.append(Stage("started", record.started_at, _between(record.started_at, record.ended_at)))
    if report is not None:
        stages.append(Stage("decoded", None, report.seconds_decode))
        stages.append(Stage("encoded into files", None, report.seconds_encode))
    if record.ended_at is not None:
        stages.append(Stage(record.status.value, record.ended_at, None))
    return stages


def bars_of(record: JobRecord) -> list[Bar]:
    """How a finished job's life is shared by waiting, decode, the writing of files, and all else."""
    waited, worked = _between(record.queued_at, record.started_at), _between(record.started_at, record.ended_at)
    if record.report is None or waited is None or worked is None or not 0 < waited + worked < inf:
        return []
    decode, encode = record.report.seconds_decode, record.report.seconds_encode
    parts = {
        ("waits", "waiting"): waited,
        ("decodes", "decode"): decode,
        ("encodes", "files"): encode,
        ("rests", "everything else"): max(0.0, worked - decode - encode),
    }
    whole, begin, bars = sum(parts.values()), 0.0, list[Bar]()
    if not isfinite(whole):
        return bars
    for (kind, name), seconds in parts.items():
        bars.append(Bar(kind, name, begin / whole, seconds / whole))
        begin += seconds
    return bars


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else max(0.0, end - begin)


def results_of(record: JobRecord) -> list[Result]:
    """What a job made."""
    stored: Sequence[BlobRecord] = record.report.stored if record.report else ()
    found = []
    for index, one in enumerate(stored):
        width, height, what = 0, 0, "tensor"
        if isinstance(one, ImageRecord | VideoRecord):
            width, height, what = one.width, one.height, f"{one.width} x {one.height}"
        if isinstance(one, VideoRecord):
            what += f", {one.num_frames} frames" + (f" at {one.fps:g} a second" if one.fps else "")
        kind = content_type_of(one)
        found.append(Result(index, kind, f"{what}, {kind}", one.size_bytes, width, height))
    return found


def facts_of(record: JobRecord) -> list[tuple[str, str]]:
    """How a job was made: what its report says, but for what has a place of its own on the page."""
    if record.report is None:
        return []
    elsewhere = {"images", "videos", "latents", "tensor", "attempt", "vae", "worker"}
    report = record.report.model_dump(mode="json", exclude=elsewhere)
    return [(name.replace("_", " "), plainly(value)) for name, value in report.items() if value not in (None, [])]
