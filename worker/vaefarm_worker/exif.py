"""An Exif block with a user comment and texts, as `piexif` writes it for the UIs: big-endian, as the comment is.

Pillow would give the comment the type BYTE, of which readers make a tuple of numbers.
"""

import struct
from collections.abc import Mapping
from typing import Final

#: Tags: of the directory with what a camera would say, and of the comment in it; where ComfyUI looks in WebP.
EXIF_DIRECTORY: Final[int] = 0x8769
USER_COMMENT: Final[int] = 0x9286
MAKE, MODEL = 0x010F, 0x0110

#: Types of values: text that ends with NUL, one 32-bit number, and bytes that say themselves what they are.
ASCII, LONG, UNDEFINED = 2, 4, 7

#: How a comment says that it is UTF-16.
UNICODE: Final[bytes] = b"UNICODE\0"

HEADER: Final[bytes] = b"MM\0*\0\0\0\x08"


def exif_block(comment: str, texts: Mapping[int, str]) -> bytes:
    """The block, with the name that JPEG wants before it.

    Args:
        texts: ASCII texts of four characters or more, by tag.
    """
    entries = [(tag, ASCII, text.encode("ascii") + b"\0") for tag, text in sorted(texts.items())]
    # Where the second directory begins is known once the first is laid out.
    start = len(HEADER) + len(_directory([*entries, (EXIF_DIRECTORY, LONG, bytes(4))], len(HEADER)))
    first = _directory([*entries, (EXIF_DIRECTORY, LONG, struct.pack(">I", start))], len(HEADER))
    said = [(USER_COMMENT, UNDEFINED, UNICODE + comment.encode("utf-16-be"))]
    return b"Exif\0\0" + HEADER + first + _directory(said, start)


def _directory(entries: list[tuple[int, int, bytes]], start: int) -> bytes:
    """A directory that begins at that byte, and behind it the values that do not fit into its entries."""
    table, values = struct.pack(">H", len(entries)), b""
    place = start + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        count = 1 if kind == LONG else len(value)
        if len(value) <= 4:
            table += struct.pack(">HHI4s", tag, kind, count, value)
        else:
            table += struct.pack(">HHII", tag, kind, count, place + len(values))
            # Each begins at an even place.
            values += value + bytes(len(value) % 2)
    return table + bytes(4) + values
