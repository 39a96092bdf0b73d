"""Copies of answers that callers keep, and name by `If-None-Match`."""

from aiohttp import web


def has_copy(request: web.Request, tag: str) -> bool:
    """Whether the caller has what a tag names."""
    return any(seen.value in (tag, "*") for seen in request.if_none_match or ())


def not_modified(tag: str, cache_control: str) -> web.Response:
    """The answer to one who has."""
    return web.Response(status=304, headers={"ETag": f'"{tag}"', "Cache-Control": cache_control})
