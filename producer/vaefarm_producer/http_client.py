"""Requests to a gateway, whose errors come back as the classes that the gateway raised."""

import io
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_random_exponential
from yarl import URL

from vaefarm_shared import errors
from vaefarm_shared.errors import ConfigurationError, FarmError, FarmUnavailable, TooManyRequests
from vaefarm_shared.settings import Settings

from .http_address import read_address

#: Seconds to wait for a connection, and for the next bytes of an answer.
CONNECT_SECONDS: Final[float] = 10.0
ANSWER_SECONDS: Final[float] = 60.0

#: Seconds without a sign of life after which a stream counts as lost; a gateway gives one every 15.
SILENT_SECONDS: Final[float] = 45.0

#: Connections at a time; one more for the stream of events.
CONNECTIONS: Final[int] = 16

#: What a status says where no gateway of ours explains it: a proxy answered.
OF_STATUS: Final[dict[int, type[FarmError]]] = {
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: ConfigurationError,
    413: errors.BodyTooLarge,
    429: TooManyRequests,
    502: FarmUnavailable,
    503: FarmUnavailable,
    504: FarmUnavailable,
}

#: What waits are repeated for: the gateway is away, or the key's rate is used up.
PASSING: Final = (FarmUnavailable, TooManyRequests)

_BACKOFF: Final = wait_random_exponential(multiplier=0.05, max=2.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's value. Raises FarmUnavailable for what is no JSON: no gateway answered."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise FarmUnavailable("what answers in the gateway's place sends no JSON; is VAEFARM_URL right?") from None


class HttpClient:
    """Requests to one gateway. Of one event loop at a time; a forked process opens connections of its own."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is sent before the first request. Raises ConfigurationError."""
        assert settings.url is not None
        key = settings.key.get_secret_value() if settings.key else None
        address = read_address(settings.url.get_secret_value(), key)
        self.url = address.url
        self._key = address.key
        self._patience = settings.submit_timeout
        self._trust_env = settings.trust_env
        #: By process: a parent's connections must not even be closed.
        self._sessions: dict[int, aiohttp.ClientSession] = {}

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """The answer to one request; options as aiohttp's. Raises what the gateway raised, and FarmUnavailable."""
        answer = await self.send(method, path, **options)
        self.check(answer)
        return answer

    async def insist(self, method: str, path: str, **options: Any) -> Answer:
        """As `call` for a request that may be repeated: until it is answered, or `submit_timeout` is over."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PASSING),
            stop=stop_after_delay(self._patience),
            wait=_pause,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                return await self.call(method, path, **options)
        raise AssertionError("tenacity raises the last error")

    async def send(self, method: str, path: str, **options: Any) -> Answer:
        """The answer to one request, whatever it says. Raises FarmUnavailable, ConfigurationError."""
        async with self.open(method, path, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    @asynccontextmanager
    async def open(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request whose answer is read piece by piece. Raises FarmUnavailable, ConfigurationError."""
        if isinstance(body := options.get("data"), bytes):
            # aiohttp sends bytes in one piece, which holds up all else of the loop, and a file in many.
            options["data"] = io.BytesIO(body)
        try:
            async with self._session().request(
                method, URL(f"{self.url}{path}", encoded=True), allow_redirects=False, **options
            ) as response:
                if 300 <= response.status < 400 and response.status != 304:
                    target = response.headers.get("Location", "")[:200]
                    raise ConfigurationError(f"{self.url} redirects to {target!r}; use the address that it leads to")
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            raise ConfigurationError(
                f"the certificate of {self.url} is not trusted: {error.certificate_error}"
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # aiohttp's own text speaks of `ssl:default` where there is no TLS at all.
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            raise FarmUnavailable(
                f"the gateway at {self.url} is not reachable: {cause or type(error).__name__}; is it running, and is"
                " VAEFARM_URL right?"
            ) from error

    async def raise_for(self, response: aiohttp.ClientResponse) -> None:
        """Raise what the gateway raised, if it did."""
        if response.status >= 300:
            self.check(Answer(response.status, response.headers, await response.read()))

    def check(self, answer: Answer) -> None:
        """Raise what the gateway raised, if it did."""
        if answer.status >= 300:
            raise error_of(answer, self.url)

    def _session(self) -> aiohttp.ClientSession:
        session = self._sessions.get(os.getpid())
        if session is None:
            headers = {"User-Agent": f"vaefarm/{version('vaefarm')}"}
            if self._key is not None:
                headers["Authorization"] = f"Bearer {self._key}"
            session = self._sessions[os.getpid()] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS + 1),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS),
                trust_env=self._trust_env,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return session

    async def close(self) -> None:
        """Close the connections of this process."""
        session = self._sessions.pop(os.getpid(), None)
        if session is not None:
            await session.close()


def part(text: object) -> str:
    """One part of a path."""
    return quote(str(text), safe="")


def error_of(answer: Answer, url: str) -> FarmError:
    """The error that an answer tells of, of the class that the gateway raised where it is known here."""
    try:
        raw = json.loads(answer.body)
        code, message = str(raw["code"]), str(raw["error"])
    except (ValueError, KeyError, TypeError):
        code, message = "", f"{url} answers with status {answer.status}, and not as a gateway does"
    return made_error(code, message, answer.headers.get("Retry-After"), answer.status)


def made_error(code: str, message: str, retry_after: object = None, status: int = 0) -> FarmError:
    """An error of the class called `code`, else of the one that belongs to a status."""
    kind = getattr(errors, code, None)
    if not (isinstance(kind, type) and issubclass(kind, FarmError)):
        kind = OF_STATUS.get(status, FarmError)
    error: FarmError = kind(message)
    if retry_after is not None and hasattr(error, "retry_after_seconds"):
        # Of a date its own default is as good.
        with suppress(ValueError):
            error.retry_after_seconds = max(0.0, float(str(retry_after)))
    return error


def _pause(state: RetryCallState) -> float:
    """Seconds to the next try: longer each time, and at least what the gateway asks for."""
    error = state.outcome.exception() if state.outcome else None
    return max(_BACKOFF(state), getattr(error, "retry_after_seconds", 0.0))
