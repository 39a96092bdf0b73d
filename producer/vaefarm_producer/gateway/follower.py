"""Following the farm's events: one connection for everyone of this process who waits.

The newest events are kept, so that whoever reads slowly, or comes back with the id of the last event it saw, loses
none: it reads from a place, and from Redis where that place is older than what is kept.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vaefarm_shared.connection import AWAY, connect_async
from vaefarm_shared.errors import FarmUnavailable
from vaefarm_shared.events import Event, Reset, follow_events, last_event_id

logger = logging.getLogger(__name__)

#: Events that a gateway keeps.
KEPT: Final[int] = 10_000

#: Seconds before the follower is told again to end.
CANCEL_SECONDS: Final[float] = 0.2

#: Seconds before another try when Redis is away.
RECONNECT_SECONDS: Final[float] = 0.5


class GatewayStops(FarmUnavailable):
    """This gateway ends: whoever waits is told at once, and asks another."""

    def __init__(self) -> None:
        super().__init__("this gateway stops; ask again, and another answers")


class News(asyncio.Queue[Event | None]):
    """News of a job: an event, or None for "look again": events may have been missed. `get` raises GatewayStops."""

    stopped = False

    def stop(self) -> None:
        """Have whoever waits, or comes to, told that the gateway stops."""
        self.stopped = True
        self.put_nowait(None)

    async def get(self) -> Event | None:
        """The next one. Raises GatewayStops."""
        if not self.stopped:
            found = await super().get()
        if self.stopped:
            raise GatewayStops
        return found


class Follower:
    """Events as they happen, for waiting handlers. Of one loop; start it there."""

    def __init__(self, url: str) -> None:
        """Nothing is sent before `start`. Raises ConfigurationError for a URL that is none."""
        self._connection = connect_async(url)
        self._waiting: dict[str, set[News]] = {}
        self._kept: deque[Event] = deque(maxlen=KEPT)
        #: The id of the last event that was seen; None until Redis has told one.
        self._last: str | None = None
        #: How often events may have been missed.
        self.resets = 0
        #: Whether the gateway stops.
        self.stopping = False
        self._news = asyncio.Event()
        self._ready = asyncio.Event()
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    def start(self) -> None:
        """Follow, until `close`."""
        self._task = asyncio.create_task(self._run(), name="vaefarm-follower")

    def stop(self) -> None:
        """End every wait, and those to come."""
        self.stopping = True
        self._stopped.set()
        for waiting in self._waiting.values():
            for news in waiting:
                news.stop()
        self._wake()

    async def close(self) -> None:
        """Follow no longer."""
        self._is_closing = True
        # A read that blocks in Redis outlives a cancel in redis-py 8: without its connection it does not. And a cancel
        # that comes as it connects is lost.
        await self._connection.connection_pool.disconnect()
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CANCEL_SECONDS)
        await self._connection.aclose()

    @property
    def last(self) -> str:
        """The id of the last event that was seen; '0-0' before any."""
        return self._last or "0-0"

    async def ready(self, seconds: float = 2.0) -> None:
        """Return once events are followed. Raises FarmUnavailable."""
        self._check()
        try:
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        except TimeoutError:
            raise FarmUnavailable("Redis is not reachable from the gateway; try again") from None

    @contextmanager
    def waiting(self, *job_ids: str) -> Iterator[News]:
        """News of a job, or of any of several, from here on."""
        news = News()
        if self.stopping:
            news.stop()
        for job_id in job_ids:
            self._waiting.setdefault(job_id, set()).add(news)
        try:
            yield news
        finally:
            for job_id in job_ids:
                self._waiting[job_id].discard(news)
                if not self._waiting[job_id]:
                    del self._waiting[job_id]

    def kept_after(self, after: str) -> list[Event] | None:
        """The events behind that id; None where some of them may not be kept any more."""
        if order(after) >= order(self.last):
            return []
        if not self._kept or order(after) < order(self._kept[0].id):
            return None
        newer: deque[Event] = deque()
        for event in reversed(self._kept):
            if order(event.id) <= order(after):
                break
            newer.appendleft(event)
        return list(newer)

    async def more(self) -> None:
        """Return when there is another event, or events may have been missed. Raises GatewayStops."""
        self._check()
        await self._news.wait()
        self._check()

    async def stopped(self) -> None:
        """Return as the gateway stops."""
        await self._stopped.wait()

    def _check(self) -> None:
        if self.stopping:
            raise GatewayStops

    async def _run(self) -> None:
        while not self._is_closing:
            try:
                if self._last is None:
                    self._last = await last_event_id(self._connection)
                self._ready.set()
                async for page in follow_events(self._connection, self._last):
                    self._take(page)
            except Reset:
                logger.warning("the stream of events begins anew: events may have been missed")
                self._last = None
                self._ready.clear()
                self._kept.clear()
                self._look_again()
            except (*AWAY, OSError) as error:
                logger.debug("Redis is away: %s", error)
                await asyncio.sleep(RECONNECT_SECONDS)
            except Exception:
                logger.exception("following events begins anew")
                await asyncio.sleep(RECONNECT_SECONDS)

    def _take(self, page: list[Event]) -> None:
        for event in page:
            self._kept.append(event)
            self._last = event.id
            for news in self._waiting.get(event.job_id, ()):
                news.put_nowait(event)
        self._wake()

    def _look_again(self) -> None:
        self.resets += 1
        for waiting in self._waiting.values():
            for news in waiting:
                news.put_nowait(None)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def order(event_id: str) -> tuple[int, int]:
    """What sorts ids of events: milliseconds, then their number within one. Raises ValueError for what is no id."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number or 0)
