"""What every gateway does besides answering, so that a farm whose workers are all dead still returns their jobs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from vaefarm_shared import budget, history, rq_bridge, workers
from vaefarm_shared.connection import connect
from vaefarm_shared.history import SAMPLE_SECONDS
from vaefarm_shared.keeper import TIDY_SECONDS, Keeper
from vaefarm_shared.reaper import LOOK_SECONDS, Reaper
from vaefarm_shared.settings import Settings

#: Seconds between two looks for workers that died with nobody to say so.
FORGET_SECONDS: Final[float] = 5.0

#: Seconds that the chore under way may take as the gateway stops.
END_SECONDS: Final[float] = 1.0


async def do_chores(farm: Settings) -> AsyncIterator[None]:
    """Reap each second; tidy, and keep how the farm stood, on a thread that the reaper does not wait for; until the
    application ends."""
    url = farm.redis_url.get_secret_value()
    reaping, tidying = connect(url), connect(url)
    reaper = Reaper(reaping, farm.lease_seconds, farm.max_attempts)

    def tidy() -> None:
        rq_bridge.clean_registries(tidying)
        budget.repair(tidying)

    def sample() -> None:
        history.take_sample(tidying, farm.budget_bytes, farm.max_queued_jobs)

    def forget() -> None:
        workers.forget_dead(tidying)

    # Where another gateway ends its turn is soon taken.
    others = [(TIDY_SECONDS, tidy), (SAMPLE_SECONDS / 3, sample), (FORGET_SECONDS, forget)]
    keepers = [Keeper([(LOOK_SECONDS, reaper.look)]), Keeper(others)]
    for keeper in keepers:
        keeper.start()
    yield
    for keeper, connection in zip(keepers, (reaping, tidying), strict=True):
        if await asyncio.to_thread(keeper.stop, END_SECONDS):
            connection.close()


def add_chores(app: web.Application, farm: Settings) -> None:
    """Have an application do them while it runs: one that is a process of its own, not each of several within one."""
    app.cleanup_ctx.append(lambda _: do_chores(farm))
