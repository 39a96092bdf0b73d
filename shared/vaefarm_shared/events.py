"""Events: every change of a job's status that others can see, in one bounded stream, the newest 50 000 or so.

The step that changes a status writes its event (`tell` in `lua/lib.lua`): queued, also when a job that was started
goes back to its queue; started; finished, failed, canceled, expired, also when what ended is discarded. The end of a
record's life is Redis' own doing and no event.

A reader holds the id of the last event that it saw. Where that event is no longer in the stream, others may have gone
with it: the stream was trimmed past it, or Redis lost its end or all of it.
"""

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import redis
import redis.asyncio

from . import keys
from .job import ADMIN, JobStatus
from .told import text_of

#: The place before every event.
START: Final[str] = "0-0"

#: Events of one page.
PAGE: Final[int] = 1000

#: Milliseconds for which a follower's read blocks: less than a connection waits for a reply. Also how long a stream
#: that was deleted goes unnoticed.
BLOCK_MILLISECONDS: Final[int] = 5000


class Event(NamedTuple):
    """A job's new status."""

    #: Milliseconds by Redis' clock and a number within them: "1718000000000-0".
    id: str
    job_id: str
    status: JobStatus
    owner: str


class Reset(Exception):
    """The last event that was seen is not in the stream any more: some may have been missed, so read the jobs anew."""


def read_events(connection: redis.Redis, after: str = START, count: int = PAGE) -> list[Event]:
    """Up to `count` events after the one of that id, in one round trip. Raises Reset."""
    with connection.pipeline(transaction=False) as pipe:
        pipe.xrange(keys.EVENTS, f"({after}", "+", count)
        pipe.xrange(keys.EVENTS, after, after)
        page, seen = pipe.execute()
    _check(after, seen)
    return _events(page)


def newest_events(connection: redis.Redis, count: int = PAGE) -> list[Event]:
    """Up to `count` of the newest events, the oldest of them first."""
    page: Any = connection.xrevrange(keys.EVENTS, count=count)
    return _events(page)[::-1]


async def first_event_id(connection: redis.asyncio.Redis) -> str:
    """The id of the oldest event that is kept; START where there is none."""
    return _id_of(await connection.xrange(keys.EVENTS, count=1))


async def last_event_id(connection: redis.asyncio.Redis) -> str:
    """The id of the newest event; START where there is none."""
    return _id_of(await connection.xrevrange(keys.EVENTS, count=1))


async def follow_events(connection: redis.asyncio.Redis, after: str = START) -> AsyncIterator[list[Event]]:
    """Pages of the events after the one of that id, as they happen; without end.

    Raises:
        Reset: go on from `last_event_id`.
        redis.RedisError: Redis is away; go on from the last event that was seen.
    """
    while True:
        async with connection.pipeline(transaction=False) as pipe:
            pipe.xread({keys.EVENTS: after}, PAGE, BLOCK_MILLISECONDS)
            # Answered once the read has been: what it left out was gone by then.
            pipe.xrange(keys.EVENTS, after, after)
            streams, seen = await pipe.execute()
        _check(after, seen)
        if page := _events(_entries(streams)):
            yield page
            after = page[-1].id


def _check(after: str, seen: list[Any]) -> None:
    if after != START and not seen:
        raise Reset(f"event {after} is not in the stream any more: it was trimmed, or Redis lost it")


def _entries(streams: Any) -> list[Any]:
    """What XREAD gave of the one stream: a list of pairs in RESP 2, a dictionary in RESP 3."""
    if not streams:
        return []
    if isinstance(streams, dict):
        (pages,) = streams.values()
        return [entry for page in pages for entry in page]
    ((_, page),) = streams
    return list(page)


def _events(page: list[Any]) -> list[Event]:
    return [
        Event(
            event_id.decode(),
            text_of(fields.get(b"id", b"")),
            status_of(fields.get(b"status", b"")),
            text_of(fields.get(b"owner", ADMIN)),
        )
        for event_id, fields in page
    ]


def status_of(raw: bytes) -> JobStatus:
    """A status of a release that this one does not know is of a job that has not ended, as far as we can tell."""
    try:
        return JobStatus(text_of(raw))
    except ValueError:
        return JobStatus.STARTED


def _id_of(page: Any) -> str:
    return str(page[0][0].decode()) if page else START
