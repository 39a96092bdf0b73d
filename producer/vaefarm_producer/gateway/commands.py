"""`vaefarm gateway`: the farm over HTTP."""

import asyncio
import logging
from typing import Annotated

import typer

from vaefarm_shared import tracing
from vaefarm_shared.blobs import check_store
from vaefarm_shared.connection import connect
from vaefarm_shared.errors import StoreAway
from vaefarm_shared.logs import configure_logging
from vaefarm_shared.redis_wait import reach
from vaefarm_shared.settings import Settings

from ..commands import LogFormatOption, RedisOption
from .extra import gateway_extra

logger = logging.getLogger(__name__)


def gateway(
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Other than this machine's own needs keys.", envvar="VAEFARM_LISTEN_HOST"
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535, envvar="VAEFARM_LISTEN_PORT"),
    ] = 8000,
    redis: RedisOption = None,
    log_format: LogFormatOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Serve the farm over HTTP: jobs under /v1, Hugging Face's remote-VAE protocol under /hf, a page for browsers at /;
    until Ctrl-C.

    Any number may run side by side. TLS is for a proxy in front of it. SIGTERM or Ctrl-C finishes what has begun within
    VAEFARM_DRAIN_SECONDS and exits 0; a second one exits at once.
    """
    farm = Settings.from_env(redis_url=redis, log_format=log_format)
    configure_logging(verbose, farm.log_format)
    with gateway_extra():
        from .app import create_app
        from .chores import add_chores
        from .serving import leave, serve
        from .settings import GatewaySettings
    tracing.configure("vaefarm-gateway")
    app = create_app(farm, GatewaySettings.from_env(), host)
    add_chores(app, farm)
    with connect(farm.redis_url.get_secret_value()) as connection:
        reach(connection, farm.redis_wait)
    try:
        check_store(farm)
    except StoreAway as error:
        # What needs it is 503 until it answers.
        logger.warning("%s", error)
    asyncio.run(serve(app, host, port, farm.drain_seconds, say_ready))
    tracing.shutdown()
    leave()


def say_ready(url: str) -> None:
    """Print where the gateway serves, for people and for whoever started it."""
    print(f"vaefarm gateway serves {url}\n  (in a browser: how the farm stands)", flush=True)
