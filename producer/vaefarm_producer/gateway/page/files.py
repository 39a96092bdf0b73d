"""Files of the pages: one style sheet, one script, one icon; nothing is built, and nothing comes from elsewhere."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from aiohttp import ETag, web

#: The files, and their types.
TYPES: Final[dict[str, str]] = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


async def get_file(request: web.Request) -> web.Response:
    """A file. Raises HTTPNotFound."""
    name = request.match_info["file"]
    if name not in TYPES:
        raise web.HTTPNotFound
    data, tag = content(name)
    headers = {"Cache-Control": "no-cache", "ETag": f'"{tag}"'}
    if any(seen.value == tag for seen in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    answer = web.Response(body=data, content_type=TYPES[name], charset="utf-8", headers={"Cache-Control": "no-cache"})
    answer.etag = ETag(tag)
    return answer


@cache
def content(name: str) -> tuple[bytes, str]:
    """A file's bytes, and what tells them from those of another release."""
    data = files(__package__).joinpath("static", name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:32]
