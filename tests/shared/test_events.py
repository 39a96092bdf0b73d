"""Events reach whoever follows them; one who may have missed some is told."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
import redis.asyncio
import torch
from tests.conftest import RedisServer, Serve

from vaefarm_producer import Farm
from vaefarm_shared import events, keys
from vaefarm_shared.connection import REPLY_SECONDS, connect_async
from vaefarm_shared.events import START, Event, Reset, follow_events, read_events

LATENTS = torch.zeros(1, 4, 8, 8)


@pytest.fixture
async def follower(server: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    connection = connect_async(server.url)
    yield connection
    await connection.aclose()


def happen(connection: redis.Redis, count: int, first: int = 0) -> list[str]:
    """Write events by hand; their ids."""
    return [
        connection.xadd(keys.EVENTS, {"id": f"job-{first + n}", "status": "queued"}).decode()  # type: ignore[union-attr]
        for n in range(count)
    ]


async def next_page(pages: AsyncIterator[list[Event]]) -> list[Event]:
    return await asyncio.wait_for(anext(pages), 20.0)


@pytest.mark.redis
def test_a_jobs_life_is_its_events(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo")
    serve()
    job.discard()

    told = read_events(connection)

    assert [one.status for one in told] == ["queued", "started", "finished", "expired"]
    assert {(one.job_id, one.owner) for one in told} == {(job.id, "admin")}
    assert [one.status for one in read_events(connection, told[1].id, count=1)] == ["finished"]


@pytest.mark.redis
async def test_a_follower_gets_what_was_and_what_comes(
    follower: redis.asyncio.Redis, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PAGE", 2)
    happen(connection, 3)
    pages = follow_events(follower)
    got = [*await next_page(pages), *await next_page(pages)]

    waits = asyncio.create_task(next_page(pages))
    happen(connection, 1, first=3)
    got += await waits

    assert [one.job_id for one in got] == ["job-0", "job-1", "job-2", "job-3"]
    assert got[-1].id == await events.last_event_id(follower)
    assert got[0].id == await events.first_event_id(follower)


def test_a_read_blocks_for_less_than_a_connection_waits() -> None:
    assert events.BLOCK_MILLISECONDS / 1e3 < REPLY_SECONDS / 2


@pytest.mark.redis
@pytest.mark.parametrize("loss", ["trimmed", "end lost", "deleted", "deleted, and more came"])
async def test_one_who_may_have_missed_events_is_told(
    loss: str, follower: redis.asyncio.Redis, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BLOCK_MILLISECONDS", 10)
    seen = happen(connection, 3)[1]
    if loss == "trimmed":
        connection.xtrim(keys.EVENTS, maxlen=1, approximate=False)
    elif loss == "end lost":
        # As a restart with an append-only file that lacks its last second.
        seen = happen(connection, 1)[0]
        connection.xdel(keys.EVENTS, seen)
    else:
        connection.delete(keys.EVENTS)
    if "more came" in loss:
        # Another millisecond's: a stream that begins anew within one may use an id again.
        milliseconds = int(seen.partition("-")[0])
        connection.xadd(keys.EVENTS, {"id": "job-9", "status": "queued"}, id=f"{milliseconds + 1}-0")

    with pytest.raises(Reset):
        read_events(connection, seen)
    with pytest.raises(Reset):
        await next_page(follow_events(follower, seen))


async def test_one_who_saw_none_misses_none(follower: redis.asyncio.Redis, connection: redis.Redis) -> None:
    start = await events.last_event_id(follower)
    assert start == START
    pages = follow_events(follower, start)
    waits = asyncio.create_task(next_page(pages))
    happen(connection, 1)
    assert len(await waits) == 1


def test_the_stream_is_bounded(farm: Farm, connection: redis.Redis) -> None:
    happen(connection, 1)
    with connection.pipeline(transaction=False) as pipe:
        for _ in range(60_000):
            pipe.xadd(keys.EVENTS, {"id": "x", "status": "queued"})
        pipe.execute()
    farm.submit(LATENTS, vae="demo")
    assert 50_000 <= int(connection.xlen(keys.EVENTS)) < 51_000
