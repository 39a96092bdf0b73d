"""What is seen of every request, whatever becomes of it: its figures, its line in the log, its span."""

import logging
import time
from typing import Any, Final

from aiohttp import hdrs, web

from vaefarm_shared import tracing
from vaefarm_shared.job_ids import JOB_ID_PATTERN

from .access import PRINCIPAL
from .metrics import METRICS
from .problems import LEFT, Handler

logger = logging.getLogger(__name__)

#: What a request came by where there is no such route: paths are the callers', and without number.
UNMATCHED: Final[str] = "unmatched"

#: Routes that probes ask each second: their lines are for --verbose.
PROBES: Final = frozenset({"/health", "/ready", "/metrics"})


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware."""
    began, status, answer = time.monotonic(), LEFT, None
    route, method = template_of(request), request.method if request.method in hdrs.METH_ALL else "OTHER"
    request.app[METRICS].begin_request(route)
    parent = request.headers.get("traceparent")
    with tracing.span(
        f"{method} {route}", "server", parent=parent, http__request__method=method, http__route=route
    ) as span:
        try:
            answer = await handler(request)
            status = answer.status
            return answer
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            seconds = time.monotonic() - began
            request.app[METRICS].end_request(route, method, status, seconds)
            job_id = job_id_of(request, answer)
            _log(request, route, method, status, seconds, job_id)
            if span is not None:
                _close(span, status, job_id)


def template_of(request: web.Request) -> str:
    """The path of the route that a request came by, with its parameters' names."""
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical


def job_id_of(request: web.Request, answer: web.StreamResponse | None) -> str | None:
    """The job that a request was about, as far as its path or its answer tells."""
    headers = {} if answer is None else answer.headers
    created = headers.get("Location", "").rpartition("/v1/jobs/")[2]
    found = request.match_info.get("job_id") or headers.get("x-job-id") or created
    # What callers write goes into the log only where it can be an id.
    return found if JOB_ID_PATTERN.fullmatch(found) else None


def _log(request: web.Request, route: str, method: str, status: int, seconds: float, job_id: str | None) -> None:
    """One line. The query is left out: signed URLs have their token in it."""
    level = logging.DEBUG if route in PROBES else logging.INFO
    if not logger.isEnabledFor(level):
        return
    principal = request.get(PRINCIPAL)
    key = None if principal is None else principal.name
    fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 6), "key": key}
    about = {} if job_id is None else {"job_id": job_id}
    shown = "".join(f" {name}={value}" for name, value in {"key": key, **about}.items() if value is not None)
    logger.log(level, "%s %s %d %.3f s%s", method, route, status, seconds, shown, extra=fields | about)


def _close(span: Any, status: int, job_id: str | None) -> None:
    span.set_attribute("http.response.status_code", status)
    if job_id is not None:
        span.set_attribute("vaefarm.job_id", job_id)
    if status >= 500:
        tracing.fail(span)
