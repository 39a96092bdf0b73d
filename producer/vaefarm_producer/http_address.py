"""Where a gateway is, and the key that it wants, out of a URL and settings."""

import logging
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit, urlunsplit

from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.settings import masked

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """A gateway's address, without a slash at its end and without any key, and the key."""

    url: str
    key: str | None = field(repr=False)


def read_address(url: str, key: str | None) -> Address:
    """Read https://HOST, or https://vaefarm:KEY@HOST; `key` wins. Raises ConfigurationError, which names no key."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"VAEFARM_URL is no URL: {error}; expected https://HOST") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"{masked(url)!r} is no gateway's address; expected https://HOST, or http://HOST:PORT")
    key = key or (unquote(parts.password) if parts.password else None)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigurationError("the key for the gateway holds characters that no key has; was it copied whole?")
    if key is not None and parts.scheme == "http" and not _is_here(parts.hostname):
        logger.warning("the key goes to %s unencrypted; use https:// where others share the network", parts.hostname)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/"))
    return Address(urlunsplit(bare), key)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
