"""Large bodies of replies, sent as the client takes them."""

import io
from typing import Final

#: Bytes above which a body is sent in pieces: whole, the loop would copy what is left of it.
LARGE_BYTES: Final[int] = 1024 * 1024


def in_pieces(body: bytes) -> bytes | io.BytesIO:
    """What aiohttp is given to send a body."""
    return body if len(body) <= LARGE_BYTES else io.BytesIO(body)
