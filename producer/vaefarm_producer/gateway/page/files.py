"""Files of the pages: one style sheet, one script, one icon; nothing is built, and nothing comes from elsewhere."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from aiohttp import ETag, web

from ..copies import has_copy, not_modified

#: The files, and their types.
TYPES: Final[dict[str, str]] = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}

#: Kept, and asked for each time whether it is still the same: the next release has another under the same address.
CACHE_CONTROL: Final[str] = "no-cache"


async def get_file(request: web.Request) -> web.Response:
    """A file. Raises HTTPNotFound."""
    name = request.match_info["file"]
    if name not in TYPES:
        raise web.HTTPNotFound
    data, tag = content(name)
    if has_copy(request, tag):
        return not_modified(tag, CACHE_CONTROL)
    answer = web.Response(
        body=data, content_type=TYPES[name], charset="utf-8", headers={"Cache-Control": CACHE_CONTROL}
    )
    answer.etag = ETag(tag)
    return answer


@cache
def content(name: str) -> tuple[bytes, str]:
    """A file's bytes, and what tells them from those of another release."""
    data = files(__package__).joinpath("static", name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:32]
