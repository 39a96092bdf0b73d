"""`/login`, `/logout`: a key is entered once; and what a page's caller is told where there is no page."""

import re
from typing import Final
from urllib.parse import parse_qs

from aiohttp import web

from vaefarm_shared.errors import FarmError, Unauthorized

from ..access import NOBODY, PRINCIPAL
from ..admission import GATE
from ..bodies import ROOM, read_body
from ..key_cookie import forget_key_cookie, key_in_cookie, set_key_cookie
from ..problems import CHALLENGES, Handler, farm_problem
from ..routes import route_of, wants_page
from .drawing import ASK_AGAIN_SECONDS, page

#: Bytes of a form with a key in it.
MOST_BYTES: Final[int] = 4096

#: Pages of this gateway, to which one who has entered a key goes on.
OWN_PAGE: Final = re.compile(r"/(?:(?:jobs|vaes)/[A-Za-z0-9_-]{1,100})?")

NO_SUCH_KEY: Final[str] = "This key is none of this gateway's. `vaefarm keys list` names those that there are."


async def post_login(request: web.Request) -> web.Response:
    """Keep the key that was entered, and go on to the page that was asked for."""
    async with request.app[ROOM].hold() as share:
        body = await read_body(request, share, MOST_BYTES)
    form = parse_qs(body.decode("utf-8", "replace"))
    key, wanted = (form.get(name, [""])[0].strip() for name in ("key", "next"))
    ring = request.app[GATE].ring
    if ring is not None and ring.find(key) is None:
        return page(request, "login.html", status=401, message=NO_SUCH_KEY, wanted=_own(wanted))
    # Not 302, which some repeat as it came.
    answer = web.Response(status=303, headers={"Location": _own(wanted), "Cache-Control": "no-store"})
    if ring is not None:
        set_key_cookie(request, answer, key)
    return answer


async def get_login(_: web.Request) -> web.Response:
    """Where the form's address was asked for again: the first page has the form for who has no key yet."""
    raise web.HTTPSeeOther("/")


async def post_logout(request: web.Request) -> web.Response:
    """Forget the key."""
    answer = web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
    forget_key_cookie(request, answer)
    return answer


@web.middleware
async def answer_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with a page where a browser asked for one: without a key with the form for it, else with what is wrong."""
    try:
        return await handler(request)
    except FarmError as error:
        route = route_of(request)
        if route is None or not (route.is_page or route.access == "landing") or not wants_page(request):
            if isinstance(error, Unauthorized) and route is not None and (route.is_page or key_in_cookie(request)):
                return _without_prompt(farm_problem(error))
            raise
        request[PRINCIPAL] = request.get(PRINCIPAL, NOBODY)
        if isinstance(error, Unauthorized):
            message = NO_SUCH_KEY if key_in_cookie(request) else None
            return _without_prompt(page(request, "login.html", status=401, message=message, wanted=_own(request.path)))
        answer = page(request, "problem.html", status=error.http_status, message=str(error))
        if error.http_status == 503:
            answer.headers["Refresh"] = str(ASK_AGAIN_SECONDS)
        return answer


def _without_prompt(answer: web.Response) -> web.Response:
    """The same with a challenge at which browsers ask for no password of their own: the page asks for a key, and while
    they ask, a page's stream and its buttons would wait."""
    answer.headers.popall("WWW-Authenticate", None)
    answer.headers["WWW-Authenticate"] = CHALLENGES[0]
    return answer


def _own(path: str) -> str:
    """A page of this gateway; its first where that is none."""
    return path if OWN_PAGE.fullmatch(path) else "/"
