"""Server-sent events, as a client reads them."""

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from aiohttp import StreamReader

from vaefarm_shared.errors import FarmUnavailable

#: Bytes of the longest event taken: those of a gateway have some hundred.
MAX_EVENT_BYTES: Final[int] = 64 * 1024


class ServerEvent(NamedTuple):
    """One event of a stream."""

    name: str
    data: str
    #: What to ask for the events behind it with; '' where it has none.
    id: str


async def read_stream(content: StreamReader) -> AsyncIterator[list[ServerEvent]]:
    """The events of a stream, as many at a time as have arrived. Raises FarmUnavailable for what is no such stream."""
    rest = b""
    async for chunk in content.iter_any():
        *blocks, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise FarmUnavailable("what answers in the gateway's place sends no events; is VAEFARM_URL right?")
        if events := [event for event in map(_event, blocks) if event is not None]:
            yield events


def _event(block: bytes) -> ServerEvent | None:
    """The event of its lines; None for a comment, which is a sign of life."""
    fields: dict[str, str] = {}
    for line in block.decode("utf-8", "replace").split("\n"):
        name, colon, value = line.partition(":")
        if name and colon:
            fields[name] = value.removeprefix(" ")
    if "data" not in fields:
        return None
    return ServerEvent(fields.get("event", "message"), fields["data"], fields.get("id", ""))
