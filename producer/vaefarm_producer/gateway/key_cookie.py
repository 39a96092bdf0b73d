"""The cookie by which a browser shows its key: it is entered once, and no script ever sees it.

A cookie comes along whoever made the browser call, so it counts for less than a header: not for pages of other origins,
and for calls that change something only where the browser says that a page of this gateway makes it.
"""

from typing import Final

from aiohttp import web

from .cors import ALLOWED_ORIGIN
from .signing import base_of

#: Seconds for which a browser keeps it: 30 days.
KEPT_SECONDS: Final[int] = 30 * 24 * 3600

#: Methods that change nothing.
SAFE: Final[frozenset[str]] = frozenset({"GET", "HEAD", "OPTIONS"})


def key_in_cookie(request: web.Request) -> str | None:
    """The key in a request's cookie; None where there is none, or where it does not count."""
    if ALLOWED_ORIGIN in request:
        return None
    if request.method not in SAFE and "Origin" not in request.headers:
        # One that there is was found to be the gateway's own: `Hosts.check_origin`.
        return None
    return request.cookies.get(_name(request))


def set_key_cookie(request: web.Request, answer: web.Response, key: str) -> None:
    """Have the browser keep a key."""
    is_secure = base_of(request).startswith("https:")
    answer.set_cookie(
        _name(request), key, max_age=KEPT_SECONDS, path="/", httponly=True, samesite="Strict", secure=is_secure
    )


def forget_key_cookie(request: web.Request, answer: web.StreamResponse) -> None:
    """Have the browser keep it no more."""
    answer.del_cookie(_name(request), path="/", httponly=True, samesite="Strict")


def _name(request: web.Request) -> str:
    """Browsers give cookies to all ports of a host alike; two gateways of one machine do not share theirs."""
    return f"vaefarm-key-{request.url.port}"
