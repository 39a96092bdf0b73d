"""`vaefarm reap`: the reaper alone, for a farm that should notice the dead even while no worker and no gateway runs."""

import logging
import signal
from threading import Event
from typing import Annotated

import typer
from redis import RedisError

from vaefarm_shared.connection import connect, farm_errors, is_away
from vaefarm_shared.logs import configure_logging
from vaefarm_shared.reaper import LOOK_SECONDS, Reaper
from vaefarm_shared.redis_wait import reach
from vaefarm_shared.settings import Settings

from .commands import LogFormatOption, RedisOption

logger = logging.getLogger(__name__)


def reap(
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    redis: RedisOption = None,
    log_format: LogFormatOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Return the jobs of dead workers to their queues, each second, until Ctrl-C.

    Every worker does this too: run it where all of them may be gone at once. Any number may run side by side.
    """
    settings = Settings.from_env(redis_url=redis, log_format=log_format)
    configure_logging(verbose, settings.log_format)
    connection = connect(settings.redis_url.get_secret_value())
    reaper = Reaper(connection, settings.lease_seconds, settings.max_attempts)
    if once:
        with farm_errors(connection):
            print(f"{len(reaper.look())} jobs returned")
        return
    reach(connection, settings.redis_wait)
    stopping = Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopping.set())
    while not stopping.is_set():
        try:
            reaper.look()
        except RedisError as error:
            if not is_away(error):
                raise
            logger.warning("Redis is away: %s", error)
        stopping.wait(LOOK_SECONDS)
