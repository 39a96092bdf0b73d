"""What aiohttp answers by itself, before any handler runs: as JSON, like every other error of the gateway.

aiohttp has no setting for it: what it answers to requests that are no HTTP is a method of the class that it makes for
each connection, and `AppRunner` names that class. A test holds both.
"""

from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server

from .problems import SAFE_HEADERS, problem


class Wire(RequestHandler):
    """One connection."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, and close the connection. It is the client's doing: no log has a traceback of it."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        why = (message or "").splitlines()
        answer = problem(
            status, f"this is no request that HTTP knows: {why[0][:200] if why else 'unknown'}", "BadRequest"
        )
        answer.headers.update(SAFE_HEADERS)
        answer.force_close()
        return answer


class WireServer(Server):
    """Makes a `Wire` for each connection."""

    def __call__(self) -> RequestHandler:
        """A connection."""
        return Wire(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application on such connections."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        """Bodies are left as they come: to unpack a bomb of a megabyte keeps the loop for seconds, also where the
        request was refused before its body was read."""
        super().__init__(app, auto_decompress=False, **options)

    async def _make_server(self) -> Any:
        server = await super()._make_server()
        return WireServer(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,
            **server._kwargs,
        )
