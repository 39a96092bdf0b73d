"""Server-sent events: per job and for all, with replay."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

import aiohttp
import numpy as np
import pytest
from tests.conftest import Serve
from tests.gateway.conftest import Gateway, soon

from vaefarm_producer import Farm
from vaefarm_producer.gateway.desk import DESK, THREADS
from vaefarm_shared.connection import connect

ARRAY = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)

Told = tuple[str, str, str]


async def told(answer: aiohttp.ClientResponse) -> AsyncGenerator[Told]:
    """Kind, id and data of each event of a stream."""
    fields: dict[str, str] = {}
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield fields["event"], fields["id"], fields["data"]
            fields = {}


async def read(gateway: Gateway, path: str, count: int, seen: str | None = None) -> list[Told]:
    """The first events of a stream; all of one that ends sooner."""
    found: list[Told] = []
    headers = {"Last-Event-ID": seen} if seen else {}
    async with asyncio.timeout(20), gateway.client.get(path, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        async with aclosing(told(answer)) as events:
            async for event in events:
                found.append(event)
                if len(found) == count:
                    break
    return found


def statuses(events: list[Told]) -> list[str]:
    return [json.loads(data)["status"] for _, _, data in events]


async def test_a_jobs_stream_tells_each_status_and_ends_with_the_job(
    gateway: Gateway, farm: Farm, serve: Serve
) -> None:
    job = farm.submit(ARRAY, vae="demo")
    async with asyncio.timeout(20), gateway.client.get(f"/v1/jobs/{job.id}/events") as answer:
        events = told(answer)
        first = await anext(events)
        await asyncio.to_thread(serve)
        rest = [event async for event in events]

    assert statuses([first, *rest]) == ["queued", "started", "finished"]


async def test_who_comes_back_is_told_what_it_missed_and_nothing_twice(
    gateway: Gateway, farm: Farm, serve: Serve
) -> None:
    job = farm.submit(ARRAY, vae="demo")
    path = f"/v1/jobs/{job.id}/events"
    ((_, seen, _),) = await read(gateway, path, 1)
    await asyncio.to_thread(serve)

    missed = await read(gateway, path, 99, seen)

    assert statuses(missed) == ["started", "finished"]
    async with gateway.client.get(path, headers={"Last-Event-ID": missed[-1][1]}) as answer:
        assert answer.status == 204


async def test_the_stream_of_all_is_replayed_from_where_its_reader_was(
    gateway: Gateway, farm: Farm, serve: Serve
) -> None:
    jobs = farm.submit_many([ARRAY] * 20, vae="demo")
    await asyncio.to_thread(serve)
    everything = await read(gateway, "/v1/events", 60, "0-0")
    later = await read(gateway, "/v1/events", 50, everything[9][1])

    assert later == everything[10:]
    for job in jobs:
        of_job = [json.loads(data)["status"] for _, _, data in everything if json.loads(data)["id"] == job.id]
        assert of_job == ["queued", "started", "finished"]


async def test_a_reader_behind_the_streams_start_is_told_to_look_anew(gateway: Gateway, farm: Farm) -> None:
    farm.submit(ARRAY, vae="demo")
    ((kind, _, _),) = await read(gateway, "/v1/events", 1, "1-0")
    assert kind == "reset"


async def test_a_waiter_learns_of_an_end_that_no_event_told(gateway: Gateway, farm: Farm) -> None:
    """Redis lost its events, as one without a disk does: whoever waits looks anew."""
    job = farm.submit(ARRAY, vae="demo")

    async def poll() -> str:
        async with gateway.client.get(f"/v1/jobs/{job.id}", headers={"Prefer": "wait=30"}) as answer:
            return str((await answer.json())["status"])

    polling = asyncio.create_task(poll())
    with connect(gateway.redis_url) as connection, connection.pipeline(transaction=True) as pipe:
        pipe.delete("vaefarm:events")
        pipe.hset(f"vaefarm:job:{job.id}", "status", "canceled")
        pipe.execute()

    assert await asyncio.wait_for(polling, 20) == "canceled"


async def test_a_last_event_id_that_is_none_is_refused(gateway: Gateway) -> None:
    async with gateway.client.get("/v1/events", headers={"Last-Event-ID": "yesterday"}) as answer:
        assert answer.status == 422


async def test_three_hundred_who_wait_cost_no_connection_to_redis_each(gateway: Gateway, farm: Farm) -> None:
    jobs = farm.submit_many([ARRAY] * 10, vae="demo")
    with connect(gateway.redis_url) as connection:
        before = connection.info("clients")["connected_clients"]
        async with aiohttp.ClientSession(gateway.url, connector=aiohttp.TCPConnector(limit=0)) as client:
            streams = [await client.get(f"/v1/jobs/{job.id}/events") for job in jobs * 10]
            streams += [await client.get("/v1/events") for _ in range(100)]
            wait = {"Prefer": "wait=60"}
            polls = [
                asyncio.create_task(client.request("GET", f"/v1/jobs/{job.id}", headers=wait)) for job in jobs * 10
            ]
            waiting = gateway.app[DESK].follower._waiting

            async def all_wait() -> bool:
                return sum(map(len, waiting.values())) == 200

            await soon("all wait", all_wait)
            assert connection.info("clients")["connected_clients"] <= before + THREADS

            await asyncio.to_thread(farm.cancel_many, jobs)
            assert {(await (await poll).json())["status"] for poll in polls} == {"canceled"}
            for stream in streams[:100]:
                assert b"canceled" in await stream.content.read()


@pytest.mark.parametrize("seen", ["1_0-0", "5--3", "\u0663-0", "1 - 0", "1-18446744073709551616", "1-"])
async def test_an_id_that_python_reads_as_a_number_and_redis_does_not_is_refused(
    gateway: Gateway, farm: Farm, seen: str
) -> None:
    job = farm.submit(ARRAY, vae="demo")
    for path in ("/v1/events", f"/v1/jobs/{job.id}/events"):
        async with gateway.client.get(path, headers={"Last-Event-ID": seen}) as answer:
            assert (answer.status, (await answer.json())["code"]) == (422, "InvalidOption")
