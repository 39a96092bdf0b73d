"""Running an application until it is asked to stop, and stopping it without losing what it has in hand."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

from vaefarm_shared.errors import ConfigurationError

from .desk import DESK
from .metrics import METRICS
from .wire import Runner

logger = logging.getLogger(__name__)

#: Seconds for which a connection may idle, and within which the headers of its next request must be complete: aiohttp
#: has one limit for both. A proxy in front keeps its idle connections for less.
IDLE_SECONDS: Final[float] = 75.0

#: Seconds between two looks whether anything is in hand still.
LOOK_SECONDS: Final[float] = 0.02

#: Seconds that answers may take to be sent once their requests are done, before connections are closed.
LAST_SECONDS: Final[float] = 1.0

#: Seconds that a thread which Redis keeps waiting is given at the end.
LEAVE_SECONDS: Final[float] = 0.5


async def serve(app: web.Application, host: str, port: int, grace_seconds: float, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; then listen no more, end what waits, and finish what has begun within the grace.

    A second signal ends the process at once. `ready` is told the address once it can be called.

    Raises:
        ConfigurationError: host and port cannot be listened on.
    """
    stopping = asyncio.Event()
    watch_signals(stopping)
    app.on_response_prepare.append(close_connection)
    runner = Runner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=LAST_SECONDS,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, UnicodeError) as error:
            raise cannot_listen(host, port, error) from error
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{runner.addresses[0][1]}")
        await stopping.wait()
        logger.info("the gateway stops; it finishes what has begun, within %g s", grace_seconds)
        await drain(app, runner, grace_seconds)
    finally:
        await runner.cleanup()


async def drain(app: web.Application, runner: web.AppRunner, grace_seconds: float) -> None:
    """Listen no more, end every wait, and return once nothing is in hand, or the grace is over.

    aiohttp's own shutdown reads no more of bodies that are on their way: this lets them arrive.
    """
    for site in list(runner.sites):
        await site.stop()
    app[DESK].follower.stop()
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_seconds):
            while app[METRICS].in_flight:
                await asyncio.sleep(LOOK_SECONDS)


async def close_connection(request: web.Request, answer: web.StreamResponse) -> None:
    """Keep no connection alive of a gateway that stops."""
    if request.app[DESK].follower.stopping:
        answer.force_close()


def watch_signals(stopping: asyncio.Event) -> None:
    """Have the first signal set `stopping`, and the second end the process."""

    def handle(signum: int) -> None:
        if stopping.is_set():
            logger.warning("the gateway ends at once")
            logging.shutdown()
            os._exit(128 + signum)
        stopping.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, handle, signum)


def cannot_listen(host: str, port: int, error: Exception) -> ConfigurationError:
    """Why an address cannot be listened on, in one line."""
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ConfigurationError(f"the gateway cannot listen on {host}:{port}: {why}; choose another --host or --port")


def leave() -> None:
    """Return once no thread is left that the interpreter would wait for; end the process where Redis keeps one."""
    others = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    for thread in others:
        thread.join(LEAVE_SECONDS)
    if any(thread.is_alive() for thread in others):
        logging.shutdown()
        os._exit(0)
