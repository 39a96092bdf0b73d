"""A gateway of the tests' own, served by a thread of their process."""

import asyncio
import threading

from aiohttp import web

from vaefarm_producer.gateway.app import create_app, deliver_webhooks
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_producer.gateway.wire import Runner
from vaefarm_shared.settings import Settings


class ServedGateway:
    """A gateway on a port of its own, from `start` to `stop`; it may be started again."""

    def __init__(self, farm: Settings, settings: GatewaySettings | None = None, *, delivers: bool = True) -> None:
        """`delivers`: whether it takes its share of the farm's webhooks."""
        self._farm, self._settings, self._delivers = farm, settings or GatewaySettings.from_env(), delivers
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(30), "the gateway did not start"

    def stop(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(30)
            self._thread = None

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        app = create_app(self._farm, self._settings)
        if not self._delivers:
            app.cleanup_ctx.remove(deliver_webhooks)
        runner = Runner(app, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await self._ending.wait()
        await runner.cleanup()
