"""Which names a gateway answers to, and whose pages may call it.

A web page may make its visitor's browser connect to anything the browser reaches, this machine's own gateway too.
Browsers do not let the page read the answer, unless its name and the gateway's are one: so whoever owns evil.example
points that name first at his server, and once the page is loaded at 127.0.0.1 (DNS rebinding). The browser now
believes that the gateway is evil.example, and says so in `Host`: a name that the operator has never heard of. An
address as `Host` cannot be rebound. `Origin` tells of pages of other names that send rather than read.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from vaefarm_shared.errors import ConfigurationError, Forbidden

from .settings import GatewaySettings, names

#: `Host`: a name or an address, and a port.
AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")

#: The highest port that there is.
MOST_PORT: Final[int] = 65535

#: What of a client's text an error shows.
SHOWN: Final[int] = 80


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to what listens there; a name other than localhost may be anything."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def name_of(authority: str) -> str | None:
    """The name or address in `host:port`, in lower case, or None."""
    found = AUTHORITY.fullmatch(authority)
    if found and int(found[2] or 0) > MOST_PORT:
        return None
    return found[1].strip("[]").lower().removesuffix(".") if found else None


def origin_of(url: str) -> str:
    """The origin of a URL, as browsers write it. Raises ConfigurationError."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or name_of(parts.netloc) is None:
        raise ConfigurationError(f"{url!r} is no origin; expected such as https://app.example, and no path or '*'")
    default = {"http": ":80", "https": ":443"}[parts.scheme]
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(default)}"


def _host_pattern(text: str) -> str:
    """A name, or `*.` and one. Raises ConfigurationError."""
    if text != name_of(text) and f"*.{name_of(text.removeprefix('*.'))}" != text:
        raise ConfigurationError(f"VAEFARM_ALLOWED_HOSTS: {text!r} is no name; expected farm.example or *.farm.example")
    return text


class Hosts:
    """Names and origins that a gateway knows."""

    def __init__(self, bound: str, settings: GatewaySettings) -> None:
        """`bound`: the host that it listens on. Raises ConfigurationError for an origin that cannot be one."""
        public = settings.public_url
        self._public_origin = origin_of(public) if public else None
        own = name_of(urlsplit(public).netloc) if public else None
        allowed = [_host_pattern(name) for name in names(settings.allowed_hosts)]
        self._exact = {"localhost", bound.lower(), *(name for name in allowed if not name.startswith("*."))} | (
            {own} if own else set()
        )
        self._suffixes = tuple(name[1:] for name in allowed if name.startswith("*."))
        self._origins = frozenset(origin_of(one) for one in names(settings.allowed_origins))

    @property
    def any_origins(self) -> bool:
        """Whether pages of other names may call at all."""
        return bool(self._origins)

    def check_host(self, request: web.Request) -> None:
        """Raise Forbidden unless a request calls the gateway by a name of its own."""
        given = request.headers.getall("Host", [])
        if len(given) != 1:
            raise Forbidden(f"the request has {len(given)} Host headers; expected one")
        # A request line with a whole URL names a host as well, and `request.host` is that one.
        for authority in {given[0], request.host}:
            name = name_of(authority)
            if name is None or not (is_address(name) or name in self._exact or name.endswith(self._suffixes)):
                raise Forbidden(
                    f"Host {authority[:SHOWN]!r} is not a name of this gateway; VAEFARM_ALLOWED_HOSTS adds names"
                )

    def check_origin(self, request: web.Request) -> str | None:
        """The origin of a page of another name that may call; None for the gateway's own, and for what is no page.
        Raises Forbidden."""
        origin = request.headers.get("Origin")
        if origin is None:
            return None
        if origin in (self._public_origin, f"{request.scheme}://{request.host}".lower()):
            return None
        if origin in self._origins:
            return origin
        raise Forbidden(f"pages of {origin[:SHOWN]!r} may not call this gateway; VAEFARM_ALLOWED_ORIGINS lets them")
