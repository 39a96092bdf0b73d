"""What browsers are told of calls from pages of other names (CORS)."""

from typing import Final

from aiohttp import web

#: Headers that such pages may send, and those that they may read.
MAY_SEND: Final[str] = "Authorization, Content-Type, Last-Event-ID, Prefer"
MAY_READ: Final[str] = "ETag, Location, Retry-After, x-job-id, shape, dtype"

#: Seconds for which a browser need not ask again.
KEPT_SECONDS: Final[int] = 600

#: Where a request keeps the origin that is told it may.
ALLOWED_ORIGIN: Final = web.RequestKey("allowed_origin", str)


def options_answer(request: web.Request) -> web.Response | None:
    """The answer to `OPTIONS`, a browser's question before a call too; None for other methods and unknown places."""
    refusal = request.match_info.http_exception
    if request.method != "OPTIONS" or not isinstance(refusal, web.HTTPMethodNotAllowed):
        return None
    methods = ", ".join(sorted({*refusal.allowed_methods, "OPTIONS"}))
    answer = web.Response(status=204, headers={"Allow": methods})
    if ALLOWED_ORIGIN in request and "Access-Control-Request-Method" in request.headers:
        answer.headers["Access-Control-Allow-Methods"] = methods
        answer.headers["Access-Control-Allow-Headers"] = MAY_SEND
        answer.headers["Access-Control-Max-Age"] = str(KEPT_SECONDS)
    return answer


def add_cors_headers(request: web.Request, answer: web.StreamResponse) -> None:
    """Let the page read an answer that it may read; and let no cache hand one page's answer to another's."""
    varied = answer.headers.get("Vary")
    answer.headers["Vary"] = f"{varied}, Origin" if varied else "Origin"
    if ALLOWED_ORIGIN in request:
        answer.headers["Access-Control-Allow-Origin"] = request[ALLOWED_ORIGIN]
        answer.headers["Access-Control-Expose-Headers"] = MAY_READ
