"""Server-sent events: of one job until it has ended, and of all that the caller may see."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Final

from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

from vaefarm_shared.errors import InvalidOption
from vaefarm_shared.events import PAGE, Event, Reset, read_events
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus
from vaefarm_shared.previews import is_preview

from .access import principal_of
from .desk import Desk, desk_of
from .follower import GatewayStops, order
from .standing import job_id_of, look_again, standing_for

#: Seconds that a client may take to read what it was sent.
SEND_SECONDS: Final[float] = 60.0

#: The id of an event: two numbers of 64 bits, as Redis reads them.
EVENT_ID: Final = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")


async def job_events(request: web.Request) -> web.StreamResponse:
    """Each change of a job's status; first how it stands now, or all since `Last-Event-ID`. Ends with the job."""
    desk, job_id, seen = desk_of(request), job_id_of(request), last_event_id_of(request)
    await desk.follower.ready()
    with desk.follower.waiting(job_id) as news:
        since = desk.follower.last
        status = (await standing_for(request, job_id)).record.status
        missed = await missed_by(desk, job_id, seen, since)
        if seen and not missed and status in TERMINAL_STATUSES:
            # An EventSource that is told so does not come again.
            return web.Response(status=204)
        async with open_stream(request) as stream:
            await tell(stream, missed)
            told = missed[-1].status if missed else None
            while True:
                if told is not status:
                    await tell(stream, [Event(since, job_id, status, "")])
                    told = status
                if status in TERMINAL_STATUSES:
                    break
                event = await news.get()
                since = event.id if event else desk.follower.last
                status = event.status if event else await look_again(desk, job_id)
    return stream


async def all_events(request: web.Request) -> web.StreamResponse:
    """Each change of any job's status that the caller may see, from now, or from `Last-Event-ID`; `reset` where some of
    them are not kept any more. With `status=finished,failed` changes to those alone."""
    desk, principal, wanted = desk_of(request), principal_of(request), statuses_of(request)
    follower = desk.follower

    def is_told(event: Event) -> bool:
        return event.status in wanted and principal.sees(event.owner) and not is_preview(event.job_id)

    await follower.ready()
    place, resets = last_event_id_of(request) or follower.last, follower.resets
    async with open_stream(request) as stream:
        while stream.is_connected():
            if resets != follower.resets:
                place, resets = follower.last, follower.resets
                await tell_reset(stream, place)
            events = follower.kept_after(place)
            if events is None:
                place = await _catch_up(desk, is_told, stream, place)
            elif events:
                await tell(stream, list(filter(is_told, events)))
                place = events[-1].id
            else:
                await follower.more()
    return stream


async def _catch_up(desk: Desk, is_told: Callable[[Event], bool], stream: EventSourceResponse, place: str) -> str:
    """Tell what Redis still keeps behind a place; the place of the last of it."""
    until = desk.follower.last
    try:
        async for page in replay(desk, place, until):
            await tell(stream, list(filter(is_told, page)))
    except Reset:
        await tell_reset(stream, until)
    return until


async def missed_by(desk: Desk, job_id: str, seen: str | None, until: str) -> list[Event]:
    """A job's events behind the last that a client saw; none where they are not kept any more."""
    if seen is None:
        return []
    try:
        return [event async for page in replay(desk, seen, until) for event in page if event.job_id == job_id]
    except Reset:
        return []


async def replay(desk: Desk, after: str, until: str) -> AsyncIterator[list[Event]]:
    """Pages of the events behind one id, up to another. Raises Reset where some of them are not kept any more."""
    while order(after) < order(until):
        page = desk.follower.kept_after(after)
        if page is None:
            page = await desk.call(desk.transport.ask, read_events, after, PAGE)
        if not page:
            return
        yield [event for event in page if order(event.id) <= order(until)]
        after = page[-1].id


@asynccontextmanager
async def open_stream(request: web.Request) -> AsyncIterator[EventSourceResponse]:
    """An event stream, which shows that it lives and gives up clients that read nothing. Ends when nobody reads it.
    Raises ConnectionResetError where the reader left before it began."""
    is_open = False
    try:
        async with sse_response(request, sep="\n") as stream:
            is_open = True
            # As the gateway stops the reader comes again, to another, with the id of the last event that it saw.
            with suppress(GatewayStops):
                yield stream
    except ConnectionResetError:
        if not is_open:
            raise


async def tell(stream: EventSourceResponse, events: Sequence[Event]) -> None:
    """Send events, all in one write. Raises ConnectionResetError where nobody reads any more."""
    if events:
        await send(stream, b"".join(map(written, events)))


async def send(stream: EventSourceResponse, text: bytes) -> None:
    """Send what is written as events. Raises ConnectionResetError where nobody reads any more."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await stream.write(text)
    except TimeoutError:
        raise ConnectionResetError("the client of a stream reads nothing") from None


@lru_cache(maxsize=4096)
def written(event: Event) -> bytes:
    """An event as the stream has it; made once for all who follow."""
    data = json.dumps({"id": event.job_id, "status": event.status.value})
    return f"id: {event.id}\nevent: status\ndata: {data}\n\n".encode()


async def tell_reset(stream: EventSourceResponse, place: str) -> None:
    """Send that events may have been missed: who follows looks at its jobs anew."""
    await stream.send("{}", id=place, event="reset")


def statuses_of(request: web.Request) -> Set[JobStatus]:
    """The statuses in a query's `status`, between commas; all where there is none. Raises InvalidOption."""
    names = request.query.get("status", "")
    try:
        return frozenset(map(JobStatus, names.split(","))) if names else frozenset(JobStatus)
    except ValueError:
        raise InvalidOption(f"status={names[:80]!r}: expected some of {', '.join(JobStatus)}, between commas") from None


def last_event_id_of(request: web.Request) -> str | None:
    """The id of the last event that the client saw; None where it says none. Raises InvalidOption."""
    seen = request.headers.get("Last-Event-ID", "").strip()
    if not seen:
        return None
    # What Python reads as numbers is more than Redis does: '1_0', '-3', digits of other scripts.
    if EVENT_ID.fullmatch(seen) and max(order(seen)) < 2**64:
        return seen
    raise InvalidOption(f"Last-Event-ID {seen[:40]!r} is none of this farm; expected the id of an event")
