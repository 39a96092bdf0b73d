"""Redis goes and comes back: 503 at once, and everything goes on by itself."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from tests.conftest import RedisServer, redis_servers
from tests.gateway.conftest import StartGateway, soon
from tests.gateway.test_pages import PAGE, followed, section

from vaefarm_producer.gateway.desk import DESK, FROZEN_SECONDS
from vaefarm_shared.errors import FarmUnavailable
from vaefarm_shared.reading import Standing
from vaefarm_shared.settings import Settings

ARRAY = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)
RAW = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float16"}

#: Seconds within which "at once" is: the farm's own patience with a submit is ten.
AT_ONCE = 5.0


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A redis-server that keeps its data while it is away."""
    server = RedisServer(next(iter(redis_servers().values())), tmp_path, ("--appendonly", "yes"))
    server.start()
    yield server
    server.stop()


async def test_while_redis_is_away_it_is_503_at_once_and_then_all_goes_on(
    start_gateway: StartGateway, own_server: RedisServer, settings: Settings
) -> None:
    gateway = await start_gateway(settings.model_copy(update={"redis_url": SecretStr(own_server.url)}))
    async with gateway.client.put("/v1/jobs/mine", params=RAW, data=ARRAY.tobytes()) as answer:
        assert answer.status == 202

    async def both_wait() -> bool:
        return len(gateway.app[DESK].follower._waiting.get("mine", ())) == 2

    poll = asyncio.create_task(gateway.client.request("GET", "/v1/jobs/mine", headers={"Prefer": "wait=60"}))
    stream = await gateway.client.get("/v1/jobs/mine/events")
    assert await stream.content.readline()
    await soon("the poll waits beside the stream", both_wait)
    # Asked behind the poll's own first look, which Redis must have answered.
    async with gateway.client.get("/v1/jobs/mine") as answer:
        assert answer.status == 200
    await asyncio.to_thread(own_server.stop)

    for call in (
        gateway.client.put("/v1/jobs/other", params=RAW, data=ARRAY.tobytes()),
        gateway.client.get("/v1/jobs/mine"),
        gateway.client.get("/v1/queues"),
        gateway.client.delete("/v1/jobs/mine"),
    ):
        async with asyncio.timeout(AT_ONCE), call as answer:
            assert (answer.status, (await answer.json())["code"]) == (503, "FarmUnavailable")
            assert int(answer.headers["Retry-After"]) >= 1

    await asyncio.to_thread(own_server.start)

    async def works() -> bool:
        async with gateway.client.post("/v1/jobs/mine/cancel") as answer:
            return answer.status == 200

    await soon("the gateway finds Redis again", works)
    answer = await asyncio.wait_for(poll, 20)
    told = await answer.json()
    assert told.get("status") == "canceled", told
    async with asyncio.timeout(20):
        assert b"canceled" in await stream.content.read()


async def test_a_wait_that_ends_as_a_connection_is_found_closed_asks_once_more(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start_gateway()
    async with gateway.client.put("/v1/jobs/mine", params=RAW, data=ARRAY.tobytes()) as answer:
        assert answer.status == 202
    standings = gateway.app[DESK].standings
    failures: list[str] = []
    ask = standings.ask

    async def fails_once(job_id: str) -> Any:
        found = await ask(job_id)
        if isinstance(found, Standing) and found.record.status == "canceled" and not failures:
            failures.append(job_id)
            raise FarmUnavailable("the connection was closed")
        return found

    monkeypatch.setattr(standings, "ask", fails_once)
    poll = asyncio.create_task(gateway.client.request("GET", "/v1/jobs/mine", headers={"Prefer": "wait=60"}))

    async def waits() -> bool:
        return "mine" in gateway.app[DESK].follower._waiting

    await soon("it waits", waits)
    await gateway.app[DESK].carry(gateway.app[DESK].transport.cancel, "mine")

    answer = await asyncio.wait_for(poll, 20)
    assert (answer.status, (await answer.json())["status"]) == (200, "canceled")
    assert failures == ["mine"]


async def test_a_redis_that_is_frozen_is_away_as_well(
    start_gateway: StartGateway, own_server: RedisServer, settings: Settings
) -> None:
    gateway = await start_gateway(settings.model_copy(update={"redis_url": SecretStr(own_server.url)}))
    async with gateway.client.put("/v1/jobs/mine", params=RAW, data=ARRAY.tobytes()) as answer:
        assert answer.status == 202
    assert own_server.process is not None
    own_server.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(3 * FROZEN_SECONDS):
            answers = await asyncio.gather(*(gateway.client.get("/v1/jobs/mine") for _ in range(40)))
        assert {answer.status for answer in answers} == {503}
    finally:
        own_server.process.send_signal(signal.SIGCONT)

    async def works() -> bool:
        async with gateway.client.get("/v1/jobs/mine") as answer:
            return answer.status == 200

    await soon("the gateway finds Redis again", works)


@pytest.mark.slow
async def test_open_pages_say_that_redis_is_away_and_go_on_once_it_is_back(
    start_gateway: StartGateway, own_server: RedisServer, settings: Settings
) -> None:
    gateway = await start_gateway(settings.at(own_server.url))
    async with gateway.client.put("/v1/jobs/mine", params=RAW, data=ARRAY.tobytes()) as answer:
        assert answer.status == 202
    async with followed(gateway, "/page/events") as of_farm, followed(gateway, "/page/jobs/mine/events") as of_job:
        await asyncio.to_thread(own_server.stop)
        for news in (of_farm, of_job):
            await section(news, "notice", 'role="alert"')
        await asyncio.to_thread(own_server.start)
        async with asyncio.timeout(30):
            for news in (of_farm, of_job):
                while (await news.get()).get("notice") != "":
                    pass


async def test_a_page_that_is_loaded_while_redis_is_away_says_so_and_comes_back_by_itself(
    start_gateway: StartGateway, settings: Settings
) -> None:
    gateway = await start_gateway(settings.at("redis://127.0.0.1:1/0"))
    async with gateway.client.get("/", headers=PAGE) as answer:
        assert answer.status == 503
        assert "cannot be shown" in await answer.text()
        assert int(answer.headers["Refresh"]) > 0
