"""Connections to Redis that never repeat a command by themselves.

redis-py 8 repeats a command whose reply was lost. A repeated LPOP or EXEC acts twice, so the clients for job
state fail at once, and each transition is read back and repeated by code that knows how.

A URL may carry what redis-py knows: rediss://USER:PASSWORD@HOST:PORT/0?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE
"""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from .errors import ConfigurationError, FarmUnavailable, QueueFull, RedisRefused
from .packing import Packer
from .refusals import alert_of, is_closed, of_certificates, refusal_of
from .settings import masked

#: Seconds to wait for a connection.
CONNECT_SECONDS: Final[float] = 5.0

#: Seconds to wait for a reply; every command of ours answers at once.
REPLY_SECONDS: Final[float] = 15.0

#: Bytes that are read at a time: a latent of 128 KiB in one go, where redis-py's 64 KiB take it three.
RECEIVE_BYTES: Final[int] = 256 * 1024

#: What redis-py raises when the server is away, in a moment, or no longer what it was.
AWAY: Final = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError)

#: What redis-py would send on each new connection: its name and version, and a question for notices of maintenance.
#: Three commands less, which an ACL need not allow.
UNSAID: Final[dict[str, Any]] = {
    "driver_info": None,
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
}

#: What Redis says while it takes no writes: it has too few replicas, its disk is full, or it is a replica itself. The
#: text tells, since a script's error has a class of its own from Redis 7 on, and not before.
NO_WRITES: Final = ("NOREPLICAS", "MISCONF", "READONLY")


def connect(url: str, reply_seconds: float = REPLY_SECONDS) -> redis.Redis:
    """Make a client for job state; nothing is sent before its first command.

    `reply_seconds`: how long to wait for a reply before the connection counts as lost.

    Raises:
        ConfigurationError: the URL is none that redis-py reads.
    """
    with _url_errors(url):
        options = _options(redis.Redis, reply_seconds)
        options |= {"command_packer": Packer(), "socket_read_size": RECEIVE_BYTES}
        return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)


def connect_async(url: str, reply_seconds: float = REPLY_SECONDS) -> redis.asyncio.Redis:
    """As `connect`, for one event loop. A command that blocks must do so for less than `reply_seconds`."""
    with _url_errors(url):
        options = _options(redis.asyncio.Redis, reply_seconds)
        return redis.asyncio.Redis.from_url(url, retry=AsyncRetry(NoBackoff(), 0), **options)


def _options(client: type, reply_seconds: float) -> dict[str, Any]:
    # Not every client of every release knows of all.
    unsaid = {name: value for name, value in UNSAID.items() if name in signature(client).parameters}
    return unsaid | {
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
    scheme = "rediss" if is_encrypted(connection) else "redis"
    return f"{scheme}://{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db') or 0}"


def is_encrypted(connection: redis.Redis) -> bool:
    """Whether a client speaks TLS."""
    return issubclass(connection.connection_pool.connection_class, redis.SSLConnection)


def refusal(connection: redis.Redis, error: Exception) -> str | None:
    """What Redis refuses, to follow "Redis at ...", where to wait mends nothing; None where it may."""
    found = refusal_of(error)
    if found is None and is_encrypted(connection) and is_closed(error):
        alert = alert_of(connection.connection_pool.connection_kwargs)
        found = None if alert is None else of_certificates(alert)
    return found


def takes_no_writes(error: Exception) -> bool:
    """Whether Redis answers, and takes no writes for now."""
    return isinstance(error, redis.exceptions.MasterDownError) or (
        isinstance(error, redis.ResponseError) and any(word in str(error) for word in NO_WRITES)
    )


def is_away(error: Exception) -> bool:
    """Whether Redis is away for now, or takes no writes: the same may succeed later."""
    return isinstance(error, AWAY) or takes_no_writes(error)


def is_full(error: Exception) -> bool:
    """Whether Redis has no memory left for what was asked."""
    # Redis 6.2 wraps what a script met into an error of the script's own, so the text tells.
    return isinstance(error, redis.OutOfMemoryError) or (
        isinstance(error, redis.ResponseError) and "OOM command not allowed" in str(error)
    )


@contextmanager
def farm_errors(connection: redis.Redis) -> Iterator[None]:
    """Turn what redis-py raises into one line that a user can act on.

    Raises:
        RedisRefused: it refuses the login, or a certificate, or what this user asks.
        FarmUnavailable: Redis is not reachable, or takes no writes for now.
        QueueFull: Redis has no memory left.
    """
    try:
        yield
    except AWAY as error:
        if (refused := refusal(connection, error)) is not None:
            raise RedisRefused(f"Redis at {address(connection)} {refused}") from error
        raise FarmUnavailable(
            f"Redis at {address(connection)} is not reachable: {str(error).rstrip('.')}; is it running, and is"
            " VAEFARM_REDIS_URL right?"
        ) from error
    except redis.ResponseError as error:
        if (refused := refusal_of(error)) is not None:
            raise RedisRefused(f"Redis at {address(connection)} {refused}") from error
        if takes_no_writes(error):
            raise FarmUnavailable(f"Redis at {address(connection)} takes no writes now: {error}") from error
        if not is_full(error):
            raise
        raise QueueFull(f"Redis at {address(connection)} has no memory left (maxmemory): try again later") from error
