"""Bodies of requests, read while they are counted: no more is held than a request may have."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from vaefarm_shared.errors import BodyTooLarge, IncompleteBody, InvalidOption, QueueFull

from .desk import desk_of

#: Bytes for which a body is given one second more.
SLOW_BYTES: Final[int] = 64 * 1024


class Room:
    """Bytes of bodies that a gateway holds at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @asynccontextmanager
    async def hold(self) -> AsyncIterator["Share"]:
        """A share that grows as a body arrives, and is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self._held -= share.held

    def take(self, count: int) -> None:
        """Raises QueueFull where there is no room for so many bytes more."""
        if self._held + count > self._most:
            raise QueueFull(f"the gateway holds {self._held} bytes of requests, as much as it may; try again", 1.0)
        self._held += count


class Share:
    """What one request holds of the room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.held = 0

    def take(self, count: int) -> None:
        """Hold so many bytes more. Raises QueueFull."""
        self._room.take(count)
        self.held += count


#: Where an application keeps the room for bodies.
ROOM: Final = web.AppKey("room", Room)


async def read_body(request: web.Request, share: Share, most: int | None = None) -> bytes:
    """A request's whole body; takes and raises what `read_chunks` does."""
    body = bytearray()
    async for chunk in read_chunks(request, share, most):
        body += chunk
    return bytes(body)


async def read_chunks(request: web.Request, share: Share, most: int | None = None) -> AsyncIterator[bytes]:
    """A request's body as it arrives.

    Args:
        share: Where its bytes count.
        most: Bytes that it may have; what the operator allows unless given, and never more than that.

    Raises:
        BodyTooLarge: it has more; the rest is not read.
        IncompleteBody: it comes too slowly, or ends before its Content-Length.
        InvalidOption: it is packed.
        QueueFull: the gateway holds as much as it may.
    """
    settings = desk_of(request).settings
    packing = request.headers.get("Content-Encoding", "identity")
    if packing.strip().lower() != "identity":
        raise InvalidOption(f"Content-Encoding is {packing[:40]!r}; expected a body that is not packed: leave it out")
    limit = settings.max_body_bytes if most is None else min(most, settings.max_body_bytes)
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)
    loop = asyncio.get_running_loop()
    count, began = 0, loop.time()
    try:
        while True:
            async with asyncio.timeout_at(began + settings.body_seconds + count / SLOW_BYTES):
                chunk = await request.content.readany()
            if not chunk:
                return
            count += len(chunk)
            if count > limit:
                raise too_large(limit)
            share.take(len(chunk))
            yield chunk
    except TimeoutError:
        raise IncompleteBody(
            f"the body came too slowly: {count} bytes in {loop.time() - began:.0f} seconds; send it faster, or"
            " raise VAEFARM_BODY_SECONDS"
        ) from None
    except (web.RequestPayloadError, ConnectionResetError) as error:
        raise IncompleteBody(f"the body ended after {count} bytes: {error}") from error


def too_large(limit: int) -> BodyTooLarge:
    """The error for a body above a limit."""
    return BodyTooLarge(f"the body has more than {limit} bytes, which is the most that this request may have")
