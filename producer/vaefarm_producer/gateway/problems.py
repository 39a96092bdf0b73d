"""Errors as answers: one line of JSON and the status that belongs to the error's class, never a traceback."""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from vaefarm_shared.errors import FarmError, InvalidInput, InvalidOption

M = TypeVar("M", bound=BaseModel)

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Headers of every answer: nothing is guessed, framed, or run.
SAFE_HEADERS: Final[dict[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
}

#: How a client may show its key: the second is for browsers, and for programs that can be told no more than a URL.
CHALLENGES: Final = ('Bearer realm="vaefarm"', 'Basic realm="vaefarm", charset="UTF-8"')

#: Seconds after which to try again, where the error does not say.
RETRY_SECONDS: Final[float] = 1.0

#: The status of a request whose caller left before its answer, as nginx has it.
LEFT: Final[int] = 499

#: Statuses after which a client should try again.
RETRYABLE: Final = frozenset({429, 503})


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what a handler raises; what nobody expected is logged, and told as no more than that."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = problem(error.status, _said(error), type(error).__name__)
        for name in ("Allow", "WWW-Authenticate"):
            if name in error.headers:
                answer.headers[name] = error.headers[name]
        return answer
    except FarmError as error:
        return farm_problem(error)
    except ConnectionResetError:
        # Nobody reads what is answered; aiohttp would log a traceback of it.
        return web.Response(status=LEFT)
    except Exception:
        logger.exception("%s %s went wrong", request.method, request.path)
        return problem(500, "the gateway met an error that it does not know; its log has it", "InternalError")


def _said(error: web.HTTPException) -> str:
    """What an error of the router says, without the address: its own text does not say what to do."""
    if isinstance(error, web.HTTPNotFound):
        return "there is nothing at this address; /docs shows every call"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"this address does not take {error.method}; expected {', '.join(sorted(error.allowed_methods))}"
    return error.text or error.reason


async def add_safe_headers(_: web.Request, answer: web.StreamResponse) -> None:
    """Put SAFE_HEADERS on an answer that has not set its own."""
    for name, value in SAFE_HEADERS.items():
        answer.headers.setdefault(name, value)


def farm_problem(error: FarmError, status: int | None = None, **more: Any) -> web.Response:
    """The answer to an error of ours; `status` where a protocol wants another than its class has."""
    answer = problem(status or error.http_status, str(error), type(error).__name__, **more)
    if answer.status in RETRYABLE:
        seconds = float(getattr(error, "retry_after_seconds", RETRY_SECONDS))
        answer.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    if answer.status == 401:
        for challenge in CHALLENGES:
            answer.headers.add("WWW-Authenticate", challenge)
    return answer


def problem(status: int, message: str, code: str, **more: Any) -> web.Response:
    """`{"error": message, "code": code}`, on one line."""
    return web.json_response({"error": " ".join(message.split()), "code": code, **more}, status=status)


def validated(model: type[M], raw: object) -> M:
    """What came as JSON, as a model. Raises InvalidOption."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise invalid(error) from error


def invalid(error: ValidationError) -> InvalidInput:
    """The first thing that pydantic finds wrong, as one of our errors."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the body"
    given = repr(first["input"])
    shown = given if len(given) <= 80 else f"{given[:80]}..."
    return InvalidOption(f"{place}={shown}: {first['msg']}")
