"""`/v1/overview`: how the farm stands, the whole of it for admins, and for other keys what they may know.

Who is no admin is told what waits and what is done about it, workers without their names and devices, and of the newest
failures those that are its own. Whoever asks while a look is under way shares the next: a gateway looks once at a time.
"""

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from vaefarm_shared.overview import Overview, WorkerOverview
from vaefarm_shared.overview_reading import LOOKED_AT, SHOWN
from vaefarm_shared.overview_warnings import with_warnings

from .access import Principal, principal_of
from .desk import Desk
from .gathering import Gathering
from .jobs import json_answer
from .overview import OF_WORKERS

#: What of a worker those see besides who are no admins.
OF_WORK: Final[frozenset[str]] = frozenset({"serves", "hot", "busy_share", "images_per_second", "silent_seconds"})

#: Where an application looks.
LOOKS: Final = web.AppKey("looks", Gathering[None, Overview])


async def get_overview(request: web.Request) -> web.Response:
    """How the farm stands, as far as the caller may know."""
    return json_answer(seen_by(principal_of(request), await request.app[LOOKS].ask(None)))


def seen_by(principal: Principal, overview: Overview) -> Overview:
    """What of a look a caller may know."""
    failures = [one for one in overview.failures if principal.sees(one.owner)][:SHOWN]
    if principal.is_admin:
        return overview.model_copy(update={"failures": failures})
    workers = [
        WorkerOverview.model_validate(one.model_dump(include=set(OF_WORKERS | OF_WORK))) for one in overview.workers
    ]
    hidden = {name: None for name in type(overview.totals).model_fields if name.startswith(("budget_", "redis_"))}
    totals = overview.totals.model_copy(update=hidden)
    return with_warnings(
        overview.model_copy(
            update={"failures": failures, "workers": workers, "totals": totals, "quarantined": None, "deaths": None}
        )
    )


def add_overview(app: web.Application, desk: Desk) -> None:
    """Have an application look."""

    async def look(asked: Sequence[None]) -> list[Overview]:
        return [await desk.call(desk.transport.overview, LOOKED_AT)] * len(asked)

    app[LOOKS] = Gathering(look)
