"""A gateway that is killed takes nothing with it: neither a job nor a webhook; another one answers."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from tests.conftest import Serve
from tests.gateway.conftest import soon

from vaefarm_producer.local.redis_server import free_port
from vaefarm_shared import keys, webhooks
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings

ARRAY = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)
RAW = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float16"}


@dataclass
class GatewayProcess:
    """A gateway in a process of its own."""

    client: aiohttp.ClientSession
    process: asyncio.subprocess.Process

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


StartProcess = Callable[[], Awaitable[GatewayProcess]]


@pytest.fixture
async def start_process(settings: Settings) -> AsyncIterator[StartProcess]:
    """Start gateways; each serves when this returns."""
    started: list[GatewayProcess] = []

    async def start() -> GatewayProcess:
        port = free_port()
        environment = os.environ | {
            "VAEFARM_REDIS_URL": settings.redis_url.get_secret_value(),
            "VAEFARM_CATALOGUE": str(settings.catalogue),
            "VAEFARM_WEBHOOK_HOSTS": "127.0.0.1",
        }
        command = [
            sys.executable,
            "-c",
            "from vaefarm_producer.cli import main; main()",
            "gateway",
            "--port",
            str(port),
        ]
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        one = GatewayProcess(aiohttp.ClientSession(f"http://127.0.0.1:{port}"), process)
        started.append(one)

        async def serves() -> bool:
            try:
                async with one.client.get("/openapi.json") as answer:
                    return answer.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await soon("the gateway serves", serves)
        return one

    yield start
    for one in started:
        if one.process.returncode is None:
            one.process.send_signal(signal.SIGTERM)
            await one.process.wait()
        await one.client.close()


async def test_another_gateway_answers_for_one_that_was_killed_in_mid_wait(
    start_process: StartProcess, serve: Serve
) -> None:
    first, other = await start_process(), await start_process()
    async with first.client.put("/v1/jobs/mine", params=RAW, data=ARRAY.tobytes()) as answer:
        assert answer.status == 202

    async def wait(gateway: GatewayProcess) -> str:
        async with gateway.client.get("/v1/jobs/mine", headers={"Prefer": "wait=60"}) as answer:
            return str((await answer.json())["status"])

    waiting = asyncio.create_task(wait(first))
    stream = await first.client.get("/v1/jobs/mine/events")
    assert await stream.content.readline()
    await first.kill()
    with pytest.raises(aiohttp.ClientError):
        await waiting
    waiting = asyncio.create_task(wait(other))
    await asyncio.to_thread(serve)

    assert await asyncio.wait_for(waiting, 30) == "finished"
    async with other.client.get("/v1/jobs/mine/image") as answer:
        assert (answer.status, answer.content_type) == (200, "image/png")


async def test_a_webhook_in_hand_of_a_killed_gateway_is_delivered_by_another(
    start_process: StartProcess, settings: Settings
) -> None:
    called: asyncio.Queue[str] = asyncio.Queue()
    answers = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        await called.put(request.headers["webhook-id"])
        await answers.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/told", handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/told"
    first = await start_process()
    async with first.client.put("/v1/jobs/mine", params=RAW | {"webhook": url}, data=ARRAY.tobytes()) as answer:
        assert answer.status == 202
    async with first.client.post("/v1/jobs/mine/cancel") as answer:
        assert answer.status == 200

    name = await asyncio.wait_for(called.get(), 20)
    await first.kill()
    answers.set()
    with connect(settings.redis_url.get_secret_value()) as connection:
        assert webhooks.next_due(connection) is not None
        # What was in hand is due again after a while: now.
        connection.zadd(keys.WEBHOOKS, {"mine": 0})
        await start_process()

        assert await asyncio.wait_for(called.get(), 20) == name
        await soon("nothing is due", lambda: asyncio.to_thread(lambda: webhooks.next_due(connection) is None))
    await runner.cleanup()
