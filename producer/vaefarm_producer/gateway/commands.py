"""`vaefarm gateway`: the farm over HTTP."""

import logging
from typing import Annotated, Final

import typer
from aiohttp import web

from vaefarm_shared.logs import configure_logging
from vaefarm_shared.settings import Settings

from ..commands import RedisOption
from .app import create_app
from .settings import GatewaySettings

#: Seconds for which a connection may idle, and within which the headers of its next request must be complete: aiohttp
#: has one limit for both. A proxy in front keeps its idle connections for less.
IDLE_SECONDS: Final[float] = 75.0

logger = logging.getLogger(__name__)


def gateway(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other than this machine's own needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    redis: RedisOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Serve the farm over HTTP: jobs under /v1, Hugging Face's remote-VAE protocol under /hf, until Ctrl-C.

    Any number may run side by side. TLS is for a proxy in front of it.
    """
    configure_logging(verbose)
    app = create_app(Settings.from_env(redis_url=redis), GatewaySettings.from_env(), host)
    web.run_app(
        app,
        host=host,
        port=port,
        print=None,
        access_log=None,
        handle_signals=True,
        keepalive_timeout=IDLE_SECONDS,
        handler_cancellation=True,
    )
