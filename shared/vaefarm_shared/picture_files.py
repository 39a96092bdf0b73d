"""What a PNG, JPEG or WebP file says of itself, read before a pixel of it is decoded.

A file is walked by its format's structure: it must begin and end as that does, with nothing before or behind. Of PNG
and JPEG, what no pixel needs (text, colour profiles, thumbnails) is left out of what a decoder is given: however much
it would inflate to, none of it is ever inflated. WebP compresses nothing but pixels.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from .errors import InvalidPicture

#: Chunks or segments of a file: more of them are no picture's.
MAX_PARTS: Final[int] = 100_000

#: Scans of a progressive JPEG. Each is a pass over the whole picture; cameras and libraries write ten or so.
MAX_SCANS: Final[int] = 100

PNG_SIGNATURE: Final[bytes] = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE: Final[bytes] = b"\xff\xd8\xff"

#: The chunks of a PNG that decide its pixels; those that must be understood and are none of these are not known to us.
PNG_PIXELS: Final[frozenset[bytes]] = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})

#: Kinds of a PNG's colours, by number.
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6

#: A marker inside of a JPEG's compressed data that ends it: 0xFF before zero, or before a restart marker, does not.
JPEG_SCAN_END: Final[re.Pattern[bytes]] = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")

#: JPEG's markers: start of frame (but for tables and what is reserved), of a scan, end; those that have no length.
JPEG_FRAMES: Final[frozenset[int]] = frozenset(set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC})
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
JPEG_BARE: Final[frozenset[int]] = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
#: Application segments and comments; of these JFIF's and Adobe's say what the colours are.
JPEG_OTHER: Final[frozenset[int]] = frozenset({*range(0xE0, 0xF0), 0xFE}) - {0xE0, 0xEE}
JPEG_EXIF: Final[int] = 0xE1

#: Bytes of a JPEG's segment without a scan's compressed data: two of the marker, and its length has two.
MAX_SEGMENT_BYTES: Final[int] = 2 + 0xFFFF

#: Exif's tag for how the camera was held.
ORIENTATION: Final[int] = 0x0112


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture's file, before it is decoded. Sizes are pixels as they are stored, before any turn."""

    image_format: Literal["PNG", "JPEG", "WEBP"]
    width: int
    height: int
    #: The file, without what no pixel needs.
    data: bytes
    #: Exif's orientation, 1 to 8; 1 where the file has none that can be read.
    orientation: int = 1
    #: Of a PNG: the bits of a sample, the number of its kind of colours.
    depth: int = 8
    colours: int = RGB
    #: Of a PNG in grey or RGB: the one colour that is transparent, in samples of `depth` bits.
    transparent: tuple[int, ...] | None = None


def is_picture_file(data: bytes) -> bool:
    """Whether it begins as a PNG, JPEG or WebP does; no more is looked at."""
    return data.startswith((PNG_SIGNATURE, JPEG_SIGNATURE)) or (data[:4], data[8:12]) == (b"RIFF", b"WEBP")


def read_picture_file(data: bytes) -> PictureFile:
    """Walk a picture's file.

    Raises:
        InvalidPicture: it is no PNG, JPEG or WebP, an animation, truncated or damaged, or other bytes follow it.
    """
    if data.startswith(PNG_SIGNATURE):
        return _png(data)
    if data.startswith(JPEG_SIGNATURE):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    raise InvalidPicture(
        f"the picture begins with {data[:8]!r}, as no PNG, JPEG or WebP does; expected the bytes of a file in one of"
        " these formats: save it as one"
    )


def _png(data: bytes) -> PictureFile:
    kept, orientation = [PNG_SIGNATURE], 1
    header = (0, 0, 0, 0)
    transparent: bytes | None = None
    for name, start, end in _png_chunks(data):
        body = data[start + 8 : end - 4]
        match name:
            case b"IHDR" if len(body) == 13:
                header = struct.unpack(">IIBB", body[:10])
            case b"acTL" | b"fcTL" | b"fdAT":
                _animated("PNG")
            case b"eXIf":
                orientation = _orientation(body)
            case b"tRNS":
                transparent = body
        if name in PNG_PIXELS or (name == b"tRNS" and header[3] == PALETTE):
            kept.append(data[start:end])
        elif not name[0] & 0x20:
            _damaged("PNG", f"its chunk {name!r} must be understood, and is of no known kind")
    width, height, depth, colours = header
    key = _transparent_colour(transparent, colours)
    return PictureFile("PNG", width, height, b"".join(kept), orientation, depth, colours, key)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's name, and where it begins and ends."""
    end, parts, name = len(PNG_SIGNATURE), 0, b""
    while name != b"IEND":
        start, parts = end, parts + 1
        end += 12 + int.from_bytes(data[start : start + 4])
        name = data[start + 4 : start + 8]
        if end > len(data):
            _truncated("PNG")
        if zlib.crc32(memoryview(data)[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            _damaged("PNG", f"the checksum of its chunk {name!r} is wrong")
        if (parts == 1) != (name == b"IHDR") or parts > MAX_PARTS:
            _damaged("PNG", f"its chunk {parts} is {name!r}")
        yield name, start, end
    _ends("PNG", data, end)


def _transparent_colour(chunk: bytes | None, colours: int) -> tuple[int, ...] | None:
    samples = {GREY: 1, RGB: 3}.get(colours)
    if chunk is None or samples is None or len(chunk) != 2 * samples:
        return None
    return struct.unpack(f">{samples}H", chunk)


def _jpeg(data: bytes) -> PictureFile:
    kept, scans, orientation = [data[:2]], 0, 1
    size: tuple[int, int] | None = None
    for marker, start, end in _jpeg_segments(data):
        body = data[start + 4 : min(end, start + MAX_SEGMENT_BYTES)]
        if marker in JPEG_FRAMES:
            if size is not None or len(body) < 6:
                _damaged("JPEG", "it has two frames, or a broken one")
            size = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
        elif marker == JPEG_EXIF and body.startswith(b"Exif\0\0") and orientation == 1:
            orientation = _orientation(body[6:])
        scans += marker == JPEG_SCAN
        if marker not in JPEG_OTHER:
            kept.append(data[start:end])
    if size is None or not 1 <= scans <= MAX_SCANS:
        _damaged("JPEG", f"it has {scans} scans" if size else "it has no frame")
    return PictureFile("JPEG", size[1], size[0], b"".join(kept), orientation)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each segment's marker, and where it begins and ends; a scan ends behind its compressed data."""
    end, parts, marker = 2, 0, 0
    while marker != JPEG_END:
        start, parts = end, parts + 1
        if data[start : start + 1] != b"\xff" or parts > MAX_PARTS:
            # At the very end it is a file that was cut off.
            _truncated("JPEG") if start == len(data) else _damaged("JPEG", f"no segment begins at byte {start}")
        while data[start + 1 : start + 2] == b"\xff":
            start += 1
        marker, end = int.from_bytes(data[start + 1 : start + 2]), start + 2
        if marker != JPEG_END:
            if marker in JPEG_BARE:
                _damaged("JPEG", f"no segment begins at byte {start}")
            end += int.from_bytes(data[end : end + 2])
        if marker == JPEG_SCAN:
            found = JPEG_SCAN_END.search(data, end)
            end = len(data) + 1 if found is None else found.start()
        if end > len(data):
            _truncated("JPEG")
        yield marker, start, end
    _ends("JPEG", data, end)


def _webp(data: bytes) -> PictureFile:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        _truncated("WebP")
    _ends("WebP", data, end)
    place, parts, orientation = 12, 0, 1
    sizes: set[tuple[int, int]] = set()
    while place < end:
        parts += 1
        name, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        body = memoryview(data)[place + 8 : place + 8 + length]
        # A chunk of odd length is followed by a byte that belongs to none.
        place += 8 + length + length % 2
        if place > end or parts > MAX_PARTS:
            _truncated("WebP")
        match name:
            case b"VP8X" if length >= 10:
                if body[0] & 0x02:
                    _animated("WebP")
                sizes.add((1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")))
            case b"VP8 " if length >= 10:
                sizes.add(tuple(side & 0x3FFF for side in struct.unpack("<HH", body[6:10])))
            case b"VP8L" if length >= 5:
                bits = int.from_bytes(body[1:5], "little")
                sizes.add(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
            case b"ANIM" | b"ANMF":
                _animated("WebP")
            case b"EXIF":
                orientation = _orientation(bytes(body).removeprefix(b"Exif\0\0"))
    if len(sizes) != 1:
        _damaged("WebP", "it has no size, or several")
    width, height = sizes.pop()
    return PictureFile("WEBP", width, height, data, orientation)


def _orientation(exif: bytes) -> int:
    """The orientation that an Exif block names in its first directory; 1 where it names none, or is broken."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, place)
            if tag == ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _ends(name: str, data: bytes, end: int) -> None:
    if end != len(data):
        raise InvalidPicture(
            f"{len(data) - end} bytes follow the end of the {name} picture; expected a file that ends with it, and is"
            " nothing besides: save the picture anew"
        )


def _truncated(name: str) -> NoReturn:
    raise InvalidPicture(f"the {name} picture is truncated; expected a whole file: read or send it anew")


def _damaged(name: str, why: str) -> NoReturn:
    raise InvalidPicture(f"the {name} picture is damaged: {why}; expected a whole file: save it anew")


def _animated(name: str) -> NoReturn:
    raise InvalidPicture(f"the {name} picture is an animation; expected a single picture: give its frames one by one")
