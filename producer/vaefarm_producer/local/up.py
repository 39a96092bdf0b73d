"""`vaefarm up`: Redis and workers on this machine, until Ctrl-C."""

import logging
import os
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Annotated, Final

import typer

from vaefarm_shared.connection import connect
from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.logs import configure_logging
from vaefarm_shared.redis_policy import check_policy
from vaefarm_shared.settings import Settings

from .processes import end, spawn, worker_command
from .redis_server import LocalRedis

logger = logging.getLogger(__name__)

#: Seconds between two looks at the children.
LOOK_SECONDS: Final[float] = 0.25

#: A worker that ends sooner than this after its first start is not started again: its message says why.
FIRST_LIFE_SECONDS: Final[float] = 60.0

#: Seconds before a worker that died is started again; doubled each time it lives no minute.
RESTART_SECONDS: Final[tuple[float, float]] = (1.0, 60.0)

#: Seconds that a worker may take to finish what it has in hand.
DRAIN_SECONDS: Final[float] = 60.0


def up(
    vaes: Annotated[str, typer.Option(help="VAE ids to serve, separated by commas.", envvar="VAEFARM_VAES")] = "demo",
    device: Annotated[str, typer.Option(help="cuda:N, cpu, mps, xpu, or auto.", envvar="VAEFARM_DEVICE")] = "auto",
    data: Annotated[Path | None, typer.Option(help="Folder that keeps jobs and pictures between runs.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of Redis. Otherwise the last of --data, else a free one.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run a whole farm on this machine: Redis and a worker, until Ctrl-C.

    Without --data everything is gone at the end. Producers find it by VAEFARM_REDIS_URL, which is printed.
    """
    configure_logging(verbose)
    command = worker_command(vaes, device)
    stopping = Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopping.set())
    with ExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vaefarm-")))
        server = stack.enter_context(LocalRedis(folder / "redis", durable=data is not None, port=port))
        say_warnings(server)
        environment = {"VAEFARM_REDIS_URL": server.url}
        if data is not None:
            environment["VAEFARM_BLOBS"] = (folder.resolve() / "blobs").as_uri()
        print("vaefarm is up; Ctrl-C ends it. Producers need:", flush=True)
        for name, value in environment.items():
            print(f"  export {name}={value}", flush=True)
        supervise(command, os.environ | environment, server, stopping)


def say_warnings(server: LocalRedis) -> None:
    """Log what a farm on that Redis risks. Raises ConfigurationError."""
    with connect(server.url) as connection:
        for warning in check_policy(connection, Settings.from_env().allow_eviction):
            logger.warning("%s", warning)


def supervise(command: list[str], environment: dict[str, str], server: LocalRedis, stopping: Event) -> None:
    """Keep a worker running until `stopping`, then let it finish what it has in hand.

    Raises:
        ConfigurationError: the worker could not start at all, or Redis ended.
    """
    wait, first = RESTART_SECONDS[0], True
    while not stopping.is_set():
        worker, born = spawn(command, environment), time.monotonic()
        try:
            watch(worker, server, stopping)
        finally:
            end(worker, DRAIN_SECONDS)
        if stopping.is_set():
            return
        lived = time.monotonic() - born
        if first and lived < FIRST_LIFE_SECONDS and worker.returncode > 0:
            raise ConfigurationError(f"the worker could not start (exit {worker.returncode}); its message is above")
        first = False
        wait = RESTART_SECONDS[0] if lived > FIRST_LIFE_SECONDS else min(2 * wait, RESTART_SECONDS[1])
        logger.warning(
            "the worker ended with %s after %.0f s; another starts in %.0f s", worker.returncode, lived, wait
        )
        stopping.wait(wait)


def watch(worker: "subprocess.Popen[bytes]", server: LocalRedis, stopping: Event) -> None:
    """Return when the worker has ended or `stopping` is set. Raises ConfigurationError when Redis has ended."""
    while worker.poll() is None and not stopping.wait(LOOK_SECONDS):
        if not server.running():
            raise ConfigurationError(f"redis-server ended; see {server.folder / 'redis.log'}")
