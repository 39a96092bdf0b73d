"""Connections to Redis that never repeat a command by themselves.

redis-py 8 repeats a command whose reply was lost. A repeated LPOP or EXEC acts twice, so the clients for job
state fail at once, and each transition is read back and repeated by code that knows how.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from .errors import ConfigurationError, FarmUnavailable, QueueFull
from .settings import masked

#: Seconds to wait for a connection.
CONNECT_SECONDS: Final[float] = 5.0

#: Seconds to wait for a reply; every command of ours answers at once.
REPLY_SECONDS: Final[float] = 15.0

#: What redis-py raises when the server is away, in a moment, or no longer what it was.
AWAY: Final = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError)


def connect(url: str, reply_seconds: float = REPLY_SECONDS) -> redis.Redis:
    """Make a client for job state; nothing is sent before its first command.

    `reply_seconds`: how long to wait for a reply before the connection counts as lost.

    Raises:
        ConfigurationError: the URL is none that redis-py reads.
    """
    with _url_errors(url):
        return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_options(reply_seconds))


def connect_async(url: str, reply_seconds: float = REPLY_SECONDS) -> redis.asyncio.Redis:
    """As `connect`, for one event loop. A command that blocks must do so for less than `reply_seconds`."""
    with _url_errors(url):
        return redis.asyncio.Redis.from_url(url, retry=AsyncRetry(NoBackoff(), 0), **_options(reply_seconds))


def _options(reply_seconds: float) -> dict[str, Any]:
    return {
        "socket_connect_timeout": min(CONNECT_SECONDS, reply_seconds),
        "socket_timeout": reply_seconds,
        "health_check_interval": 30,
    }


@contextmanager
def _url_errors(url: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ConfigurationError(
            f"{masked(url)!r} is no Redis URL: expected redis://HOST:PORT/DB, rediss:// or unix://"
        ) from error


def address(connection: redis.Redis) -> str:
    """The address a client speaks to, without its password."""
    options = connection.connection_pool.connection_kwargs
    if "path" in options:
        return f"unix://{options['path']}"
    return f"redis://{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db') or 0}"


@contextmanager
def farm_errors(connection: redis.Redis) -> Iterator[None]:
    """Turn what redis-py raises into one line that a user can act on.

    Raises:
        FarmUnavailable: Redis is not reachable, or refuses the login.
        QueueFull: Redis has no memory left.
    """
    try:
        yield
    except redis.AuthenticationError as error:
        raise FarmUnavailable(f"Redis at {address(connection)} refuses the login: {error}") from error
    except AWAY as error:
        raise FarmUnavailable(
            f"Redis at {address(connection)} is not reachable: {str(error).rstrip('.')}; is it running, and is"
            " VAEFARM_REDIS_URL right?"
        ) from error
    except redis.ResponseError as error:
        # Redis 6.2 wraps what a script met into an error of the script's own, so the text tells.
        if "OOM command not allowed" not in str(error) and not isinstance(error, redis.OutOfMemoryError):
            raise
        raise QueueFull(f"Redis at {address(connection)} has no memory left (maxmemory): try again later") from error
