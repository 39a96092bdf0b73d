"""The table of routes: what is called how, who may, what it takes and gives. The OpenAPI document is made from it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from aiohttp import web
from pydantic import BaseModel

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Who may call: anyone; anyone but browsers that ask for a page, which need a key; holders of a key, or of a signed URL
#: for just this; holders of a key; admins.
Access = Literal["open", "landing", "signed", "key", "admin"]

#: What a signed URL is good for.
Purpose = Literal["picture", "stream"]


@dataclass(frozen=True, slots=True)
class Route:
    """One route."""

    method: str
    path: str
    handler: Handler
    summary: str
    access: Access = "key"
    #: What a URL must be signed for, where signed ones may call.
    purpose: Purpose = "picture"
    #: Model of the query's parameters.
    query: type[BaseModel] | None = None
    #: Content types of the body, and the model of the one that is JSON.
    bodies: tuple[str, ...] = ()
    body: type[BaseModel] | None = None
    #: Status of a success and its model; where there is none, its content types.
    status: int = 200
    answer: type[BaseModel] | None = None
    content_types: tuple[str, ...] = ("application/json",)
    #: Further statuses, and what they mean.
    also: dict[int, str] = field(default_factory=dict)
    #: Whether it is a page for people, or a part of one: no call that programs are told of.
    is_page: bool = False


#: Where a request finds its route: the handler's name is not enough for what the access middleware must know.
ROUTES: Final = web.AppKey("routes", dict[tuple[str, str], Route])


def add_routes(app: web.Application, routes: list[Route]) -> None:
    """Put routes into an application; `GET` answers `HEAD` as well."""
    app[ROUTES] = {}
    for route in routes:
        added = app.router.add_route(route.method, route.path, route.handler)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, route.handler)
        assert added.resource is not None
        for method in {route.method} | ({"HEAD"} if route.method == "GET" else set()):
            app[ROUTES][method, added.resource.canonical] = route


def wants_page(request: web.Request) -> bool:
    """Whether it is a browser that asks, for something to show."""
    return "text/html" in request.headers.get("Accept", "")


def route_of(request: web.Request) -> Route | None:
    """The route that a request came by; None for one that there is not."""
    resource = request.match_info.route.resource
    return None if resource is None else request.app[ROUTES].get((request.method, resource.canonical))
