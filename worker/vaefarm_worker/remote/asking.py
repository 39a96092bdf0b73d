"""One request to one endpoint over HTTP: its answer, or what was wrong in one line without secrets."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Final

import aiohttp

from vaefarm_shared.endpoints import EndpointEntry

from .address import Address
from .exchange import Question
from .trouble import Asleep, Broken, Garbled, Gone, Redirected, Refused, TimedOut, Trouble

#: Bytes of an error's text that are read.
ERROR_BYTES: Final[int] = 16 * 1024

#: What a status says of the endpoint; every other 4xx is Refused, every other 5xx Broken.
OF_STATUS: Final[dict[int, type[Trouble]]] = {
    401: Gone,
    402: Gone,
    403: Gone,
    404: Gone,
    405: Gone,
    407: Gone,
    408: TimedOut,
    410: Gone,
    425: Broken,
    429: Asleep,
    503: Asleep,
    504: TimedOut,
}

#: What is told with a status that somebody must mend.
ADVICE: Final[dict[int, str]] = {
    401: "; is its token right?",
    403: "; is its token right?",
    404: "; is its URL right?",
    405: "; is its URL right?",
    410: "; is its URL right?",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, with a status that says that it is what was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Asker:
    """A session with one endpoint. Of one event loop."""

    def __init__(self, entry: EndpointEntry, address: Address) -> None:
        """Nothing is sent before the first request."""
        self._entry = entry
        self._address = address
        self._session = aiohttp.ClientSession(
            # One more than is asked at a time: the known latent waits behind no job that hangs.
            connector=aiohttp.TCPConnector(limit=entry.concurrency + 1),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": f"vaefarm/{version('vaefarm')}",
                "Accept-Encoding": "identity",
                **address.headers,
            },
            # A reply that grows as it is unpacked is bounded by no number of bytes.
            auto_decompress=False,
            # The total is ours to watch, so that it tells itself from other timeouts.
            timeout=aiohttp.ClientTimeout(total=None, connect=entry.connect_seconds),
        )

    async def ask(self, question: Question) -> Answer:
        """The answer to one request, `question.most_bytes` of it at most.

        Raises:
            Trouble: whatever else came.
        """
        try:
            async with asyncio.timeout(self._entry.timeout_seconds):
                return await self._exchange(question)
        # None of them as a cause: their texts name URLs.
        except aiohttp.ClientConnectorCertificateError:
            raise Gone("its certificate is not trusted") from None
        except aiohttp.ClientHttpProxyError as error:
            raise Asleep(f"the proxy on the way answers {error.status}") from None
        except aiohttp.ClientConnectorError as error:
            cause = error.os_error.strerror or type(error.os_error).__name__
            raise Asleep(self._address.clean(f"no connection: {cause}")) from None
        except aiohttp.ConnectionTimeoutError:
            raise Asleep(f"no connection within {self._entry.connect_seconds:g} s") from None
        except TimeoutError:
            raise TimedOut(f"no whole answer within {self._entry.timeout_seconds:g} s") from None
        except aiohttp.ClientPayloadError:
            raise Broken("it broke off in the middle of its answer") from None
        except aiohttp.ServerDisconnectedError:
            raise Broken("it closed the connection without an answer") from None
        except aiohttp.ClientResponseError:
            raise Broken("what it answers is no HTTP") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            raise Broken(self._address.clean(f"the connection broke: {reason}")) from None

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def _exchange(self, question: Question) -> Answer:
        url = self._address.url.extend_query(question.params)
        async with self._session.post(
            url,
            data=question.body,
            headers=question.headers,
            allow_redirects=False,
            proxy=self._address.proxy,
            proxy_headers=self._address.proxy_headers,
        ) as response:
            try:
                if response.status >= 300:
                    raise await self._trouble(response)
                return Answer(response.status, response.headers, await self._body(response, question.most_bytes))
            except BaseException:
                # What is left of the reply is not read.
                response.close()
                raise

    async def _body(self, response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise Garbled(self._address.clean(f"its answer is packed ({coding}), though that was not asked for"))
        body = await self._read(response, most_bytes + 1)
        if len(body) > most_bytes:
            raise Garbled(f"its answer has more than the {most_bytes} bytes that it can have")
        return body

    async def _read(self, response: aiohttp.ClientResponse, enough: int) -> bytes:
        """The reply up to so many bytes. Raises TimedOut where nothing came for too long."""
        found = bytearray()
        try:
            while len(found) < enough:
                async with asyncio.timeout(self._entry.read_seconds) as limit:
                    piece = await response.content.read(enough - len(found))
                if not piece:
                    break
                found += piece
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimedOut(f"its answer stopped for {self._entry.read_seconds:g} s") from None
        return bytes(found)

    async def _trouble(self, response: aiohttp.ClientResponse) -> Trouble:
        status = response.status
        if status < 400:
            return Redirected(f"it redirects ({status}), which is not followed; is its URL right?")
        said = self._said(response, await self._read(response, ERROR_BYTES))
        retry_after = read_retry_after(response.headers.get("Retry-After"), time.time())
        kind = OF_STATUS.get(status, Refused if status < 500 else Broken)
        text = f"{status}{said}{ADVICE.get(status, '')}"
        return Asleep(text, retry_after, busy=status == 429) if kind is Asleep else kind(text, retry_after)

    def _said(self, response: aiohttp.ClientResponse, body: bytes) -> str:
        """What the error says of itself: its JSON's `error`, else the status' own words."""
        try:
            said = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError, RecursionError):
            said = None
        cleaned = self._address.clean(said if isinstance(said, str) else response.reason or "")
        return f": {cleaned}" if cleaned else ""


def read_retry_after(value: str | None, now: float) -> float | None:
    """Seconds from now: of a number of seconds, or of a date. None for what is neither.

    Args:
        now: Unix seconds.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None
