"""`vaefarm up`: Redis, a worker and a gateway on this machine, until Ctrl-C."""

import logging
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Annotated, Final

import typer

from vaefarm_shared.blobs import check_store
from vaefarm_shared.connection import connect
from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.logs import configure_logging
from vaefarm_shared.redis_policy import NO_AOF, check_policy
from vaefarm_shared.settings import Settings

from ..commands import LogFormatOption
from .processes import worker_command
from .redis_server import LocalRedis, is_free
from .supervising import Child, supervise

logger = logging.getLogger(__name__)

#: Where the gateway listens unless told otherwise; where that is taken, on the next port that is free, of so many.
GATEWAY_PORT: Final[int] = 8000
GATEWAY_PORTS: Final[int] = 100

#: What the gateway's extra installs besides what everyone has.
GATEWAY_MODULES: Final = (
    *("aiohttp_sse", "itsdangerous", "jinja2", "limits", "multipart", "openapi_pydantic", "prometheus_client"),
    *("standardwebhooks", "swagger_ui", "tomlkit"),
)


def up(
    vaes: Annotated[
        str | None,
        typer.Option(
            help="VAE ids to decode on this machine, separated by commas; demo unless --weights or --remote is given.",
            envvar="VAEFARM_VAES",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the weights: one VAE, a pipeline with one, or a folder for each VAE id.",
            envvar="VAEFARM_WEIGHTS",
        ),
    ] = None,
    remote: Annotated[
        list[str] | None,
        typer.Option(
            help="VAE=URL of an endpoint that decodes for this machine, or VAE for those of the catalogue; may be"
            " repeated.",
            envvar="VAEFARM_REMOTE",
        ),
    ] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Ask endpoints of other machines over http:// too, unencrypted.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, cpu, mps or xpu.", envvar="VAEFARM_DEVICE")] = "auto",
    data: Annotated[Path | None, typer.Option(help="Folder that keeps jobs and pictures between runs.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of Redis. Otherwise the last of --data, else a free one.")
    ] = None,
    gateway_host: Annotated[
        str,
        typer.Option(
            help="Address on which the gateway listens. Other than this machine's own needs keys.",
            envvar="VAEFARM_LISTEN_HOST",
        ),
    ] = "127.0.0.1",
    gateway_port: Annotated[
        int | None,
        typer.Option(
            help="Port of the gateway. Otherwise 8000, or the next that is free.",
            min=1,
            max=65535,
            envvar="VAEFARM_LISTEN_PORT",
        ),
    ] = None,
    no_gateway: Annotated[bool, typer.Option("--no-gateway", help="Without the HTTP gateway.")] = False,
    log_format: LogFormatOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run a whole farm on this machine: Redis, a worker and a gateway, until Ctrl-C.

    Without --data everything is gone at the end. Producers find it by VAEFARM_REDIS_URL, which is printed, or by the
    address that the gateway prints once it serves; this machine alone can call it unless --gateway-host says otherwise.
    """
    settings = Settings.from_env(log_format=log_format)
    configure_logging(verbose, settings.log_format)
    check_store(settings)
    worker = worker_command(vaes if vaes or weights or remote else "demo", device, weights)
    commands = {"worker": [*worker, "--allow-http"] if allow_http else worker}
    if not no_gateway and (command := gateway_command(gateway_host, gateway_port)) is not None:
        commands["gateway"] = command
    stopping = Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopping.set())
    with ExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vaefarm-")))
        server = stack.enter_context(LocalRedis(folder / "redis", durable=data is not None, port=port))
        if data is None:
            logger.warning("without --data DIR all jobs and pictures are gone when this ends")
        say_warnings(server)
        environment = {"VAEFARM_REDIS_URL": server.url, "VAEFARM_LOG_FORMAT": settings.log_format.value}
        if remote:
            # Not as arguments: addresses may hold passwords, and whoever lists the processes reads those.
            environment["VAEFARM_REMOTE"] = " ".join(remote)
        if settings.store != "redis://":
            environment["VAEFARM_STORE"] = settings.store
        elif data is not None:
            environment["VAEFARM_STORE"] = (folder.resolve() / "blobs").as_uri()
        print("vaefarm is up; Ctrl-C ends it. Producers need:", flush=True)
        for name in ("VAEFARM_REDIS_URL", "VAEFARM_STORE"):
            if name in environment:
                print(f"  export {name}={environment[name]}", flush=True)
        children = [Child(name, command, os.environ | environment) for name, command in commands.items()]
        supervise(children, partial(check_redis, server), stopping)


def say_warnings(server: LocalRedis) -> None:
    """Log what a farm on that Redis risks. Raises ConfigurationError."""
    with connect(server.url) as connection:
        for warning in check_policy(connection, Settings.from_env().allow_eviction):
            # Redis is our own: what it keeps is what --data says.
            if not warning.endswith(NO_AOF):
                logger.warning("%s", warning)


def check_redis(server: LocalRedis) -> None:
    """Raise ConfigurationError when Redis has ended."""
    if not server.running():
        raise ConfigurationError(f"redis-server ended; see {server.folder / 'redis.log'}")


def gateway_command(host: str, port: int | None) -> list[str] | None:
    """The command that starts a gateway with this Python; None, and a line that says why, without its libraries.

    Raises ConfigurationError where the port is taken.
    """
    missing = [name for name in GATEWAY_MODULES if find_spec(name) is None]
    if missing:
        logger.warning("there is no gateway: it needs %s: pip install 'vaefarm[gateway]'", missing[0])
        return None
    if port is not None and not is_free(port):
        raise ConfigurationError(f"port {port} is taken: name a free one with --gateway-port, or none")
    listen = ["--host", host, "--port", str(port or free_gateway_port())]
    return [sys.executable, "-m", "vaefarm_producer", "gateway", *listen]


def free_gateway_port() -> int:
    """The first port from GATEWAY_PORT on that nobody listens on. Raises ConfigurationError."""
    for port in range(GATEWAY_PORT, GATEWAY_PORT + GATEWAY_PORTS):
        if is_free(port):
            return port
    last = GATEWAY_PORT + GATEWAY_PORTS - 1
    raise ConfigurationError(f"ports {GATEWAY_PORT} to {last} are all taken: name a free one with --gateway-port")
