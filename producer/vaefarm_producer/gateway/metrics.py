"""`/metrics`, in Prometheus' text format or OpenMetrics: the farm's figures, and this gateway's own of HTTP."""

from functools import partial
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from .access import need_admin
from .desk import Desk, desk_of
from .farm_figures import FarmCollector

#: Upper bounds of the classes of seconds that requests take: long polls and streams take minutes.
REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)


class Metrics:
    """A registry of one application's own: none is shared by all that runs in a process."""

    def __init__(self, desk: Desk) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(FarmCollector(desk.transport))
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = Counter(
            "vaefarm_http_requests", "Requests answered.", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "vaefarm_http_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("route", "method"),
            registry=self.registry,
            buckets=REQUEST_SECONDS,
        )

        self._by_route = Gauge(
            "vaefarm_http_requests_in_flight", "Requests that are being answered.", ("route",), registry=self.registry
        )
        #: How many requests are being answered.
        self.in_flight = 0

    def begin_request(self, route: str) -> None:
        """Count a request that begins."""
        self.in_flight += 1
        self._by_route.labels(route).inc()

    def end_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one that has ended."""
        self.in_flight -= 1
        self._by_route.labels(route).dec()
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)


#: Where an application keeps them.
METRICS: Final = web.AppKey("metrics", Metrics)


async def get_metrics(request: web.Request) -> web.Response:
    """Every figure. Raises Forbidden unless an admin asks."""
    need_admin(request)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    body = await desk_of(request).call(partial(encode, request.app[METRICS].registry))
    return web.Response(body=body, headers={"Content-Type": content_type})
