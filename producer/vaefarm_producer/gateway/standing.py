"""How a job stands, as an answer; and waiting until it stands otherwise."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web

from vaefarm_shared.errors import FarmUnavailable, JobNotFound
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus
from vaefarm_shared.job_ids import check_job_id
from vaefarm_shared.reading import Standing
from vaefarm_shared.records import BlobRecord, DecodeReport

from .access import need_sight
from .desk import Desk, desk_of
from .follower import RECONNECT_SECONDS, GatewayStops
from .models import JobAnswer, StoredAnswer
from .signing import signer_of

#: `Prefer: wait=30` (RFC 7240).
PREFER: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


def job_id_of(request: web.Request) -> str:
    """The job id in a request's path. Raises InvalidJobId."""
    return check_job_id(request.match_info["job_id"])


def wait_of(request: web.Request) -> float:
    """Seconds for which the request wants to wait, as far as the operator allows; 0 where it does not."""
    found = PREFER.search(request.headers.get("Prefer", ""))
    return min(float(found[1]), desk_of(request).settings.wait_seconds) if found else 0.0


async def read_standing(desk: Desk, job_id: str) -> Standing:
    """How a job stands now. Raises JobNotFound."""
    found = await desk.standings.ask(job_id)
    if isinstance(found, JobNotFound):
        raise found
    return found


async def standing_for(request: web.Request, job_id: str, wait: float = 0.0) -> Standing:
    """How a job stands, for one who may know of it; once it has ended, after `wait` seconds, or as the gateway stops.

    Raises JobNotFound, FarmUnavailable.
    """
    desk = desk_of(request)
    if not wait or desk.follower.stopping:
        standing = await read_standing(desk, job_id)
        need_sight(request, job_id, standing.record.owner)
        return standing
    ends = asyncio.get_running_loop().time() + wait
    await desk.follower.ready()
    with desk.follower.waiting(job_id) as news:
        # Read behind the subscription: what happened before it shows here, what happens after it is told.
        standing = await standing_for(request, job_id)
        status = standing.record.status
        with suppress(TimeoutError, GatewayStops):
            async with asyncio.timeout(wait):
                while status not in TERMINAL_STATUSES:
                    event = await news.get()
                    status = event.status if event else await look_again(desk, job_id)
    # Also where nothing was told: a worker of the release before writes no events.
    return standing if standing.record.status in TERMINAL_STATUSES else await read_in_time(desk, job_id, ends)


async def read_in_time(desk: Desk, job_id: str, ends: float) -> Standing:
    """How a job stands now, for one who waits until `ends` by the loop's clock: where Redis was away meanwhile, its
    connections are found closed one by one. Raises JobNotFound, FarmUnavailable."""
    while True:
        try:
            return await read_standing(desk, job_id)
        except FarmUnavailable:
            if desk.follower.stopping or asyncio.get_running_loop().time() >= ends:
                raise
        await asyncio.sleep(RECONNECT_SECONDS)


async def look_again(desk: Desk, job_id: str) -> JobStatus:
    """A job's status, for one who waits on while Redis is away. Raises JobNotFound."""
    while True:
        with suppress(FarmUnavailable):
            return await desk.call(desk.transport.status, job_id)
        await asyncio.sleep(RECONNECT_SECONDS)


async def answer_of(request: web.Request, standing: Standing) -> JobAnswer:
    """How a job stands, with the addresses of what came of it."""
    record = standing.record
    path = f"/v1/jobs/{record.id}"
    signer = signer_of(request)
    stored = record.report.stored if record.report else ()
    direct = await direct_urls(desk_of(request), record.id, stored)
    results = [
        StoredAnswer(
            index=index,
            url=f"{path}/image/{index}",
            signed_url=signer.picture_url(request, record.id, index),
            direct_url=direct[index],
            size_bytes=one.size_bytes,
        )
        for index, one in enumerate(stored)
    ]
    return JobAnswer(
        **record.model_dump(include=JobAnswer.model_fields.keys() - {"report"}),
        position=standing.position,
        eta_seconds=standing.eta_seconds,
        report=public(record.report, path) if record.report else None,
        url=path,
        events_url=signer.stream_url(request, record.id),
        results=results,
    )


async def direct_urls(desk: Desk, job_id: str, stored: Sequence[BlobRecord]) -> list[str | None]:
    """Direct links to what a job made; None for what comes from the gateway alone."""
    if not any(map(desk.links.has, stored)):
        return [None] * len(stored)
    return await desk.carry(lambda: [desk.links.link(job_id, index, one) for index, one in enumerate(stored)])


def public(report: DecodeReport, path: str) -> DecodeReport:
    """A report whose blobs are named by where clients get them, not by where the farm keeps them."""

    def named(one: BlobRecord, index: int) -> BlobRecord:
        return one.model_copy(update={"blob": f"{path}/image/{index}"})

    stored = [named(one, index) for index, one in enumerate(report.stored)]
    others = iter(stored)
    changes: dict[str, object] = {
        kind: tuple(next(others) for _ in getattr(report, kind)) for kind in ("images", "videos")
    }
    for name in ("latents", "tensor"):
        if getattr(report, name, None) is not None:
            changes[name] = next(others)
    return report.model_copy(update=changes)
