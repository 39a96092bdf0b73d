"""The routes of pages; and what an application keeps for them."""

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from ..desk import Desk
from ..routes import Handler, Route
from . import entrance, farm_page, files, job_page, thumbnails
from .board import BOARD, Board
from .thumbnails import THUMBNAILS, Thumbnails


def _page(path: str, handler: Handler, summary: str) -> Route:
    return Route("GET", path, handler, summary, content_types=("text/html",), is_page=True)


PAGES: Final = [
    Route("GET", "/", farm_page.get_root, "That the gateway lives; for browsers the farm's page.", access="landing",
          content_types=("text/plain", "text/html")),
    _page("/jobs", job_page.find_job_page, "Go to a job's page."),
    _page("/jobs/{job_id}", job_page.get_job_page, "A job's page."),
    _page("/vaes/{vae}", farm_page.get_vae_page, "A VAE's page."),
    _page("/page/events", farm_page.farm_events, "The farm's page as it changes."),
    _page("/page/vaes/{vae}/events", farm_page.farm_events, "A VAE's page as it changes."),
    _page("/page/jobs/{job_id}/events", job_page.job_page_events, "A job's page as it changes."),
    _page("/page/thumbnails/{job_id}/{index}", thumbnails.get_thumbnail, "A small picture."),
    Route("GET", "/page/{file}", files.get_file, "A file of the pages.", access="open", is_page=True),
    Route("GET", "/login", entrance.get_login, "Go to the form.", access="open", is_page=True),
    Route("POST", "/login", entrance.post_login, "Keep a key.", access="open", is_page=True),
    Route("POST", "/logout", entrance.post_logout, "Forget it.", access="open", is_page=True),
]  # fmt: skip


def add_pages(app: web.Application, desk: Desk) -> None:
    """Give an application its board and its thumbnails."""
    app[BOARD] = Board(app, desk)
    app[THUMBNAILS] = Thumbnails()

    async def close(_: web.Application) -> AsyncIterator[None]:
        yield
        await app[BOARD].close()

    app.cleanup_ctx.append(close)
