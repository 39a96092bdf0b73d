"""The desk: what every handler works with. Redis is asked on a few threads, so that the loop never waits for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Final, ParamSpec, TypeVar

from aiohttp import web

from vaefarm_shared.errors import JobNotFound
from vaefarm_shared.reading import Standing
from vaefarm_shared.settings import Settings

from .backing import Backing
from .direct import DirectLinks
from .follower import Follower
from .gathering import Gathering
from .settings import GatewaySettings

P = ParamSpec("P")
T = TypeVar("T")

#: Threads, and so connections, that ask Redis.
THREADS: Final[int] = 8

#: Threads that may wait for the store outside of Redis: those that ask Redis never do.
CARRIERS: Final[int] = 16

#: Seconds without a reply after which Redis counts as away: the threads that wait for it are all there are.
FROZEN_SECONDS: Final[float] = 3.0

#: Seconds for which a call is repeated while Redis is away.
AT_ONCE_SECONDS: Final[float] = 0.01


class Desk:
    """The farm as a gateway sees it: its transport, and one follower of its events for everyone who waits."""

    def __init__(self, farm: Settings, settings: GatewaySettings) -> None:
        """Connects at the first call. Raises ConfigurationError for settings of the farm that are not what they should
        be."""
        self.farm = farm
        self.settings = settings
        # Whoever calls over HTTP is told at once that Redis is away, and comes again by itself.
        self.transport = Backing(farm.model_copy(update={"submit_timeout": AT_ONCE_SECONDS}), FROZEN_SECONDS)
        self.links = DirectLinks(farm.store, settings.direct_url_seconds, settings.store_public_url)
        self.follower = Follower(farm.redis_url.get_secret_value())
        #: How jobs stand, asked for together.
        self.standings: Gathering[str, Standing | JobNotFound] = Gathering(
            lambda job_ids: self.call(self.transport.standings, job_ids)
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vaefarm-gateway")
        self._carriers = ThreadPoolExecutor(CARRIERS, thread_name_prefix="vaefarm-carrier")

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that may wait for Redis, on a thread."""
        return await self._run(self._threads, function, *args, **kwargs)

    async def carry(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that may wait for the store of latents and pictures, on a thread."""
        return await self._run(self._carriers, function, *args, **kwargs)

    @staticmethod
    async def _run(threads: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # Its context goes along: a job that is made on the thread belongs to the request's span.
        run = copy_context().run
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, lambda: run(function, *args, **kwargs))

    async def close(self) -> None:
        """Close what was opened."""
        await self.follower.close()
        for threads in (self._threads, self._carriers):
            threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.transport.close)
        await asyncio.to_thread(self.links.close)


#: Where an application keeps its desk.
DESK: Final = web.AppKey("desk", Desk)


def desk_of(request: web.Request) -> Desk:
    """The desk of the application that a request came to."""
    found: Any = request.config_dict[DESK]
    assert isinstance(found, Desk)
    return found
