"""Files of the fake decoder: PNGs of an exact size that tell their latents apart, made at the cost of a copy."""

import struct
import zlib
from functools import lru_cache
from typing import Any, Final

from vaefarm_shared.errors import ConfigurationError

SIGNATURE: Final[bytes] = b"\x89PNG\r\n\x1a\n"

#: Private ancillary chunks, which every reader passes over: the latents' digest, and what fills the file up.
DIGEST: Final[bytes] = b"vfDg"
FILLING: Final[bytes] = b"vfFl"

#: Bytes of a chunk beside its data.
CHUNK_BYTES: Final[int] = 12

#: Sizes of pictures whose files are kept.
KEPT_SIZES: Final[int] = 64


def fake_png(height: int, width: int, size_bytes: int, latent: Any) -> bytes:
    """A black PNG of exactly that many bytes.

    Args:
        latent: The bytes of one picture's latent, whose CRC-32 the file carries: others give another file.

    Raises:
        ConfigurationError: a picture of that height and width takes more.
    """
    head, tail = _around_digest(height, width, size_bytes)
    return b"".join((head, _chunk(DIGEST, struct.pack(">I", zlib.crc32(latent))), tail))


@lru_cache(maxsize=KEPT_SIZES)
def _around_digest(height: int, width: int, size_bytes: int) -> tuple[bytes, bytes]:
    """What stands before and after the digest's chunk."""
    eight_bit_rgb = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = SIGNATURE + _chunk(b"IHDR", eight_bit_rgb)
    filter_and_row = bytes(1 + 3 * width)
    tail = _chunk(b"IDAT", zlib.compress(filter_and_row * height, 9)) + _chunk(b"IEND", b"")
    least = len(head) + CHUNK_BYTES + 4 + CHUNK_BYTES + len(tail)
    if size_bytes < least:
        raise ConfigurationError(
            f"fake pictures of {size_bytes} bytes: one of {width} x {height} takes at least {least}; give it that many"
        )
    return head, _chunk(FILLING, bytes(size_bytes - least)) + tail


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
