"""The application: routes, middlewares, and what starts and stops with it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web

from vaefarm_shared.settings import Settings

from . import deliverer, farm_overview, health, hf, hf_routes, jobs, metrics, openapi, pictures, previews, streams
from .admission import GATE, Gate, add_origin_headers, admit
from .bodies import ROOM, Room
from .desk import DESK, Desk
from .farm_routes import FARM_ROUTES
from .metrics import METRICS, Metrics
from .models import (
    SAFETENSORS,
    EventsQuery,
    JobAnswer,
    PictureQuery,
    StatusAnswer,
    StatusQuery,
    StepAnswer,
    StepOptions,
    TensorOptions,
    WebhookSecret,
)
from .observing import observe
from .page.entrance import answer_pages
from .page.routes import PAGES, add_pages
from .problems import add_safe_headers, answer_problems
from .routes import Route, add_routes
from .secret import Secret
from .settings import GatewaySettings
from .signing import SIGNER, Signer
from .submitting import PICTURES

#: What the body of a job may be.
BODIES = ("application/octet-stream", SAFETENSORS, *sorted(PICTURES))

#: What a job's stored result may be.
RESULTS = (*sorted(PICTURES), SAFETENSORS)

#: What a preview's picture may be, and what its address answers besides.
PREVIEWS = ("image/jpeg", "image/png")
UNCHANGED = {304: "What the caller has is the newest."}

#: What the latents of a step come as.
STEP_BODIES = ("application/octet-stream", SAFETENSORS)

#: What a picture's address answers besides.
PARTS = {
    206: "The range that was asked for.",
    304: "What the caller has is the same.",
    307: "A direct link to the bytes, for a while, where that was asked for and they lie in S3.",
    416: "There is no such range.",
}

#: What a submit answers besides.
ENDED = {200: "The job has ended already."}

ROUTES = [
    Route("POST", "/v1/jobs", jobs.post_job, "Queue a job.", query=TensorOptions, bodies=BODIES, status=202,
          answer=JobAnswer, also=ENDED),
    Route("PUT", "/v1/jobs/{job_id}", jobs.put_job, "Queue a job under an id of your own.", query=TensorOptions,
          bodies=BODIES, status=202, answer=JobAnswer, also=ENDED),
    Route("GET", "/v1/jobs/{job_id}", jobs.get_job, "How a job stands.", answer=JobAnswer),
    Route("DELETE", "/v1/jobs/{job_id}", jobs.delete_job, "Cancel a job, or remove one that has ended.",
          answer=JobAnswer, also={204: "It had ended, and is removed."}),
    Route("POST", "/v1/jobs/{job_id}/cancel", jobs.cancel_job, "Cancel a job.", answer=JobAnswer),
    Route("POST", "/v1/jobs/{job_id}/retry", jobs.retry_job, "Queue a failed job again.", status=202,
          answer=JobAnswer, also={200: "It had not failed, and is left as it is."}),
    Route("GET", "/v1/jobs/{job_id}/image", pictures.get_image, "A job's picture.", access="signed",
          query=PictureQuery, content_types=RESULTS, also=PARTS),
    Route("GET", "/v1/jobs/{job_id}/image/{index}", pictures.get_image, "A job's picture by its index.",
          access="signed", query=PictureQuery, content_types=RESULTS, also=PARTS),
    Route("GET", "/v1/jobs/{job_id}/preview", previews.get_preview, "A job's newest preview, while it has not ended.",
          access="signed", content_types=PREVIEWS, also=UNCHANGED),
    Route("GET", "/v1/jobs/{job_id}/preview/{index}", previews.get_preview, "A picture of a preview by its index.",
          access="signed", content_types=PREVIEWS, also=UNCHANGED),
    Route("PUT", "/v1/jobs/{job_id}/preview", previews.put_preview, "Queue the preview of a step, before its job.",
          query=StepOptions, bodies=STEP_BODIES, status=202, answer=StepAnswer, also=previews.NOT_QUEUED),
    Route("DELETE", "/v1/jobs/{job_id}/preview", previews.delete_preview, "Remove a job's preview.", status=204),
    Route("GET", "/v1/jobs/{job_id}/events", streams.job_events, "Server-sent events of a job.", access="signed",
          purpose="stream", content_types=("text/event-stream",),
          also={204: "It has ended, and nothing happened since."}),
    Route("GET", "/v1/events", streams.all_events, "Server-sent events of all jobs.", query=EventsQuery,
          content_types=("text/event-stream",)),
    Route("POST", "/v1/statuses", jobs.post_statuses, "The status of many jobs.", bodies=("application/json",),
          body=StatusQuery, answer=StatusAnswer),
    Route("POST", "/v1/cancels", jobs.post_cancels, "Cancel many jobs.", bodies=("application/json",), body=StatusQuery,
          answer=StatusAnswer),
    Route("GET", "/v1/webhooks/secret", deliverer.get_webhook_secret, "What your webhooks are signed with.",
          answer=WebhookSecret),
    Route("GET", "/health", health.get_health, "That the gateway lives.", access="open", content_types=("text/plain",)),
    Route("GET", "/ready", health.get_ready, "Whether Redis answers and a worker serves the default VAE.",
          access="open", query=health.ReadyQuery, answer=health.ReadyAnswer),
    Route("GET", "/metrics", metrics.get_metrics, "Figures for Prometheus.", access="admin",
          content_types=("text/plain", "application/openmetrics-text")),
    Route("GET", "/openapi.json", openapi.get_document, "This document.", access="open"),
    Route("GET", "/docs", openapi.get_page, "This document as a page.", access="open", content_types=("text/html",)),
    Route("GET", "/docs/{file}", openapi.get_page_file, "A file of the page.", access="open",
          content_types=("text/css", "text/javascript", "image/png")),
]  # fmt: skip


def create_app(farm: Settings, settings: GatewaySettings, host: str = "127.0.0.1") -> web.Application:
    """A gateway of a farm, to listen on `host`.

    Raises:
        ConfigurationError: settings are not what they should be, or a gateway that others can call has no keys.
    """
    app = web.Application(
        middlewares=[observe, answer_problems, answer_pages, admit], client_max_size=settings.max_body_bytes
    )
    app[DESK] = Desk(farm, settings)
    app[METRICS] = Metrics(app[DESK])
    app[ROOM] = Room(settings.bodies_bytes)
    app[openapi.DOCUMENT] = {}
    app[GATE] = Gate(host, settings)
    app[SIGNER] = Signer(Secret(settings), settings.url_seconds)
    app.on_response_prepare.append(add_safe_headers)
    app.on_response_prepare.append(add_origin_headers)
    app.cleanup_ctx.append(open_desk)
    app.cleanup_ctx.append(watch_keys)
    app.cleanup_ctx.append(deliver_webhooks)
    app.on_shutdown.append(end_waits)
    health.add_readiness(app, app[DESK])
    farm_overview.add_overview(app, app[DESK])
    add_pages(app, app[DESK])
    hf.add_hf(app)
    add_routes(app, [*ROUTES, *FARM_ROUTES, *hf_routes.ROUTES, *PAGES])
    return app


async def open_desk(app: web.Application) -> AsyncIterator[None]:
    """Follow events while the application runs."""
    app[DESK].follower.start()
    yield
    await app[DESK].close()


async def watch_keys(app: web.Application) -> AsyncIterator[None]:
    """Follow the file of keys while the application runs."""
    ring = app[GATE].ring
    if ring is None:
        yield
        return
    async with running(ring.watch()):
        yield


async def deliver_webhooks(app: web.Application) -> AsyncIterator[None]:
    """Take a share of the webhooks while the application runs; those in hand at its end are another gateway's."""
    async with running(deliverer.Deliverer(app[DESK], app[SIGNER].secret).run()):
        yield


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have something run beside what is done within."""
    task = asyncio.create_task(work)
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def end_waits(app: web.Application) -> None:
    """End what waits for events, which may be for minutes; what else runs has its grace."""
    app[DESK].follower.stop()
