"""`/` and `/vaes/{vae}`: the farm, and one VAE, as they stand and as they go on."""

from aiohttp import web

from ..access import principal_of
from ..desk import desk_of
from ..health import get_health
from ..models import VaeAnswer
from ..overview import read_vaes
from ..routes import wants_page
from ..streams import open_stream, send
from .board import BOARD, View
from .drawing import page


async def get_root(request: web.Request) -> web.Response:
    """The farm's page for browsers; for everyone else that the gateway lives."""
    if wants_page(request):
        sections = await request.app[BOARD].draw(View(principal_of(request)))
        answer = page(request, "farm.html", sections=sections, events="/page/events")
    else:
        answer = await get_health(request)
        answer.headers["Vary"] = "Accept"
    return answer


async def get_vae_page(request: web.Request) -> web.Response:
    """A VAE's page. Raises UnknownVae."""
    vae = request.match_info["vae"]
    desk = desk_of(request)
    known: VaeAnswer = (await desk.call(read_vaes, desk, vae))[0]
    sections = await request.app[BOARD].draw(View(principal_of(request), vae))
    return page(request, "vae.html", known=known, sections=sections, events=f"/page/vaes/{vae}/events")


async def farm_events(request: web.Request) -> web.StreamResponse:
    """The sections of the farm's page, or of a VAE's, as they change. Raises UnknownVae."""
    desk, vae = desk_of(request), request.match_info.get("vae")
    if vae is not None:
        # Each view is drawn once a second: there are no more of them than VAEs.
        await desk.call(desk.transport.contract, vae)
    view = View(principal_of(request), vae)
    async with request.app[BOARD].screen(view) as screen, open_stream(request) as stream:
        version = 0
        while stream.is_connected():
            version, text = await screen.read(version)
            await send(stream, text)
    return stream
