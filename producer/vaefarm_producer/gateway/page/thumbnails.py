"""Thumbnails: small pictures for strips, made once for all who look and kept for a while."""

import asyncio
import io
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from aiohttp import ETag, web
from PIL import Image

from vaefarm_shared.errors import JobNotFound
from vaefarm_shared.records import ImageRecord, VideoRecord

from ..copies import has_copy, not_modified
from ..desk import desk_of
from ..pictures import CACHE_CONTROL, etag_of, index_of, stored_at
from ..standing import job_id_of, standing_for
from .newest import MOST_PIXELS, has_thumbnail

logger = logging.getLogger(__name__)

#: Pixels of a thumbnail's longer side.
SIDE: Final[int] = 320

#: Thumbnails that are kept, some 10 KiB each.
KEPT: Final[int] = 512


class Thumbnails:
    """Makes one at a time, beside what a gateway is for."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._turn = asyncio.Lock()

    async def get(self, request: web.Request, job_id: str, one: ImageRecord | VideoRecord) -> bytes:
        """A picture's thumbnail, as WebP. Raises what reading the picture raises; ValueError for what is none."""
        if (found := self._kept.get(one.blob)) is not None:
            self._kept.move_to_end(one.blob)
            return found
        async with self._turn:
            if (found := self._kept.get(one.blob)) is None:
                desk = desk_of(request)
                found = await whole(desk.carry(lambda: small(desk.transport.stored(job_id, one))))
                self._kept[one.blob] = found
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return found


#: Where an application keeps them.
THUMBNAILS: Final = web.AppKey("thumbnails", Thumbnails)


async def get_thumbnail(request: web.Request) -> web.Response:
    """A small picture of a job's. Raises JobNotFound for what has none."""
    job_id, index = job_id_of(request), index_of(request)
    one = stored_at((await standing_for(request, job_id)).record, index)
    none = JobNotFound(f"job {job_id!r} has no small picture {index}; its page shows what it made")
    if not isinstance(one, ImageRecord | VideoRecord) or not has_thumbnail(one):
        raise none
    tag = etag_of(one)
    if has_copy(request, tag):
        return not_modified(tag, CACHE_CONTROL)
    try:
        data = await request.app[THUMBNAILS].get(request, job_id, one)
    except ValueError as error:
        logger.warning("there is no small picture of job %s: %s", job_id, error)
        raise none from error
    answer = web.Response(body=data, content_type="image/webp", headers={"Cache-Control": CACHE_CONTROL})
    answer.etag = ETag(tag)
    return answer


async def whole(work: Coroutine[Any, Any, bytes]) -> bytes:
    """What work on a thread gives. One who leaves waits for its end: the thread goes on, and so does its turn."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await task
        raise


def small(data: bytes) -> bytes:
    """A picture's thumbnail. Raises ValueError for bytes that are none, or one larger than it was said to be."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as picture:
            if picture.width * picture.height > MOST_PIXELS.get((picture.format or "").lower(), 0):
                raise ValueError(f"it has {picture.width} x {picture.height} pixels")
            picture.draft("RGB", (SIDE, SIDE))
            picture.thumbnail((SIDE, SIDE))
            shown = picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGB")
            out = io.BytesIO()
            shown.save(out, "WEBP", quality=80)
    except Exception as error:
        # Pillow's readers raise what they meet: of a torn PNG a SyntaxError, of others a struct.error.
        raise ValueError(f"it cannot be read: {error}") from error
    return out.getvalue()
