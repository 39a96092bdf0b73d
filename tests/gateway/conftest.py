"""A real gateway on a port of its own, and a real HTTP client."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from vaefarm_producer.gateway.app import create_app
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.settings import Settings


@dataclass
class Gateway:
    """A gateway that serves."""

    url: str
    app: web.Application
    #: Of the test's loop; relative addresses are the gateway's.
    client: aiohttp.ClientSession
    redis_url: str


@pytest.fixture
async def start_gateway(settings: Settings) -> AsyncIterator[Callable[..., object]]:
    """Start gateways of the test's farm with settings of their own."""
    async with AsyncExitStack() as stack:

        async def start(farm: Settings | None = None, **options: object) -> Gateway:
            app = create_app(farm or settings, GatewaySettings.from_env(**options))
            runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            client = await stack.enter_async_context(aiohttp.ClientSession(url))
            return Gateway(url, app, client, (farm or settings).redis_url.get_secret_value())

        yield start


@pytest.fixture
async def gateway(start_gateway: Callable[..., object]) -> Gateway:
    """A gateway of the test's farm, on loopback, without keys."""
    return await start_gateway()  # type: ignore[misc, no-any-return]
