"""A real gateway on a port of its own, and a real HTTP client."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.gateway.hf_farm import HfFarm, running_farm
from yarl import URL

from vaefarm_producer.gateway.app import create_app
from vaefarm_producer.gateway.key_file import add_key, new_entry, new_key
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_producer.gateway.wire import Runner
from vaefarm_shared.settings import Settings


@dataclass
class Gateway:
    """A gateway that serves."""

    url: str
    app: web.Application
    #: Of the test's loop; relative addresses are the gateway's.
    client: aiohttp.ClientSession
    redis_url: str
    #: Stops it, as a signal does.
    stop: Callable[[], Awaitable[None]]


StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start_gateway(settings: Settings) -> AsyncIterator[StartGateway]:
    """Start gateways of the test's farm with settings of their own."""
    async with AsyncExitStack() as stack:

        async def start(farm: Settings | None = None, **options: object) -> Gateway:
            app = create_app(farm or settings, GatewaySettings.from_env(**options))
            runner = Runner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            client = await stack.enter_async_context(aiohttp.ClientSession(url))
            return Gateway(url, app, client, (farm or settings).redis_url.get_secret_value(), runner.cleanup)

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    """A gateway of the test's farm, on loopback, without keys."""
    return await start_gateway()


@pytest.fixture(scope="session")
def hf_farm(tmp_path_factory: pytest.TempPathFactory, catalogue: Path) -> Iterator[HfFarm]:
    """A farm that decodes for `demo` and `flux`, and the videos of VIDEO_VAES; nobody changes it."""
    from tests.gateway.video_vaes import VIDEO_VAES

    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("VAEFARM_"):
                patch.delenv(name)
        folder = tmp_path_factory.mktemp("hf")
        with_videos, text = folder / "catalogue.toml", catalogue.read_text()
        for vae, make in VIDEO_VAES.items():
            make().save_pretrained(folder / vae)
            text += f"[vaes.{vae}]\npath = {json.dumps(str(folder / vae))}\n"
        with_videos.write_text(text)
        with running_farm(folder, with_videos, ",".join(("demo", "flux", *VIDEO_VAES))) as farm:
            yield farm


@dataclass
class Keys:
    """A file of keys."""

    path: Path

    def make(self, name: str, admin: bool = False, rate: str | None = None, most: int | None = None) -> dict[str, str]:
        """The headers of a new key's holder."""
        key = new_key()
        add_key(self.path, new_entry(name, key, admin=admin, rate=rate, max_in_flight=most), replace=True)
        return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """An empty file of keys."""
    return Keys(tmp_path / "keys.toml")


async def soon(what: str, happens: Callable[[], Awaitable[object]], seconds: float = 20.0) -> None:
    """Return once `happens` gives something true; fail with `what` at the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await happens():
        assert loop.time() < deadline, f"not within {seconds} seconds: {what}"
        await asyncio.sleep(0.02)


async def raw(url: str, request: bytes) -> bytes:
    """All that a gateway answers to these bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
