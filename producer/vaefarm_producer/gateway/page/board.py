"""The board: what pages show of the farm, looked at and drawn once a second for all who have them open.

A page is a set of sections. Whoever looks is sent those that changed; a reader that fell behind is sent them all.
"""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

from aiohttp import web
from redis.exceptions import RedisError

from vaefarm_shared.errors import FarmError
from vaefarm_shared.history import SAMPLE_SECONDS, Sample, read_history
from vaefarm_shared.overview import Overview, busiest_first

from ..access import Principal
from ..desk import Desk
from ..farm_overview import LOOKS, seen_by
from ..follower import GatewayStops
from .charts import Chart, charts_of
from .drawing import changed, draw_sections, notice
from .newest import SHOWN, Card, Newest

logger = logging.getLogger(__name__)

#: Seconds from one look to the next.
TICK_SECONDS: Final[float] = 1.0

#: Looks after which the samples of the last hour are read anew.
HISTORY_TICKS: Final[int] = 15

#: Pictures that are put on a page each second, over a while: more are none that anyone could look at.
PICTURES_PER_SECOND: Final[float] = 3.0

#: Pictures that browsers fetch each second, of all pages together, so that many pages do not cost much more than one.
FETCHES_PER_SECOND: Final[float] = 20.0

#: Sections of the farm's page, and of a VAE's, from the top down.
OF_FARM: Final = ("notice", "warnings", "totals", "charts", "pictures", "vaes", "workers", "failures", "endpoints",
                  "devices")  # fmt: skip
OF_VAE: Final = ("notice", "vae", "pictures", "workers", "failures", "endpoints")


class View(NamedTuple):
    """What a page shows: to whom, and of which VAE, or of all."""

    principal: Principal
    vae: str | None = None


class Glance(NamedTuple):
    """What was seen at a look."""

    overview: Overview
    charts: Sequence[Chart]


class Screen:
    """One view as it was drawn last, for all who look at it."""

    def __init__(self, newest: Newest) -> None:
        self.newest = newest
        self.sections: dict[str, str] = {}
        self.version = 0
        #: What changed with the last version, as an event.
        self.changes = b""
        self.readers = 0
        #: Pictures that may be put in by now.
        self.allowance = 0.0
        self._news = asyncio.Event()
        self._stopped = False

    def show(self, sections: Mapping[str, str]) -> None:
        """Take what was drawn, and tell who looks where something is new."""
        if news := changed(self.sections, sections):
            self.sections |= news
            self.version += 1
            self.changes = event_of(news)
            self._wake()

    def stop(self) -> None:
        """Have all who look told that the gateway stops."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def read(self, version: int) -> tuple[int, bytes]:
        """What a reader of an earlier version is to be sent, once there is something; and its version then. Raises
        GatewayStops."""
        while version == self.version and not self._stopped:
            await self._news.wait()
        if self._stopped:
            raise GatewayStops
        return self.version, self.changes if version == self.version - 1 else event_of(self.sections)


class Board:
    """Looks while anyone does. Of one event loop."""

    def __init__(self, app: web.Application, desk: Desk) -> None:
        self._app = app
        self._desk = desk
        self._screens: dict[View, Screen] = {}
        self._samples: list[Sample] = []
        self._looking: asyncio.Task[None] | None = None

    async def draw(self, view: View) -> dict[str, str]:
        """The sections of a view as they are now. Raises FarmUnavailable."""
        screen = self._screens.get(view)
        newest = screen.newest if screen is not None else Newest(self._desk, *view)
        if screen is None:
            await newest.look()
        return sections_of(view, await self._glance(), newest.cards)

    @asynccontextmanager
    async def screen(self, view: View) -> AsyncIterator[Screen]:
        """A view, kept up to date while this lasts. Raises GatewayStops."""
        if self._desk.follower.stopping:
            # Nobody looks any more, or soon.
            raise GatewayStops
        screen = self._screens.get(view)
        if screen is None:
            screen = self._screens[view] = Screen(Newest(self._desk, *view))
        screen.readers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="vaefarm-board")
        try:
            yield screen
        finally:
            screen.readers -= 1
            if not screen.readers:
                self._screens.pop(view, None)
            if not self._screens:
                await self.close()

    async def close(self) -> None:
        """Look no more."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def _look(self) -> None:
        follower, tick = self._desk.follower, 0
        while not follower.stopping:
            try:
                if tick % HISTORY_TICKS == 0:
                    await self._read_history()
                await self._show()
            except FarmError as error:
                for screen in self._screens.values():
                    screen.show({"notice": notice(error)})
            except Exception:
                logger.exception("pages were not drawn")
            tick += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await follower.stopped()
        for screen in self._screens.values():
            screen.stop()

    async def _show(self) -> None:
        glance = await self._glance()
        pages = sum(screen.readers for screen in self._screens.values())
        for view, screen in list(self._screens.items()):
            try:
                await self._show_on(screen, view, glance, pages)
            except FarmError:
                raise
            except Exception:
                logger.exception("a page of %s was not drawn", view.vae or "the farm")

    async def _show_on(self, screen: Screen, view: View, glance: Glance, pages: int) -> None:
        """`pages`: how many are open, of all views."""
        more = min(PICTURES_PER_SECOND, FETCHES_PER_SECOND / max(pages, 1)) * TICK_SECONDS
        screen.allowance = min(screen.allowance + more, SHOWN)
        # The first pictures are more than that, and no debt.
        screen.allowance = max(0.0, screen.allowance - await screen.newest.look(int(screen.allowance)))
        screen.show(sections_of(view, glance, screen.newest.cards))

    async def _read_history(self) -> None:
        try:
            self._samples = await self._desk.call(self._desk.transport.ask, read_history)
        except RedisError as error:
            logger.error("the farm's history cannot be read, charts stay as they are: %s", error)

    async def _glance(self) -> Glance:
        if not self._samples:
            await self._read_history()
        overview = await self._app[LOOKS].ask(None)
        # They move with the samples: with each second all points would be others, and be sent to everyone.
        until = math.ceil(overview.taken_at / SAMPLE_SECONDS) * SAMPLE_SECONDS
        return Glance(overview, charts_of(self._samples, until))


#: Where an application keeps its board.
BOARD: Final = web.AppKey("board", Board)


def sections_of(view: View, glance: Glance, cards: Sequence[Card]) -> dict[str, str]:
    """What a view shows."""
    principal, vae = view
    overview = seen_by(principal, glance.overview)
    if vae is not None:
        overview = of_vae(overview, vae)
    values = {
        "overview": overview,
        "vaes": busiest_first(overview.vaes),
        "vae": next((one for one in overview.vaes if one.id == vae), None),
        "vae_id": vae,
        "cards": cards,
        "charts": glance.charts,
        "is_admin": principal.is_admin,
        "message": None,
    }
    names = OF_FARM if vae is None else OF_VAE
    return draw_sections(names, values)


def of_vae(overview: Overview, vae: str) -> Overview:
    """What of an overview is a VAE's."""
    workers = [
        one.model_copy(update={"endpoints": [state for state in one.endpoints if state.vae == vae]})
        for one in overview.workers
        if vae in one.vaes
    ]
    return overview.model_copy(
        update={
            "vaes": [one for one in overview.vaes if one.id == vae],
            "workers": workers,
            "deaths": None,
            "failures": [one for one in overview.failures if one.vae == vae],
            "warnings": [one for one in overview.warnings if one.vae == vae],
        }
    )


def event_of(sections: Mapping[str, str]) -> bytes:
    """Sections as a server-sent event."""
    return f"event: sections\ndata: {json.dumps(dict(sections))}\n\n".encode()
