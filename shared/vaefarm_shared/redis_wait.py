"""The first contact of a service with Redis: it may start after them, and what waiting cannot mend ends them."""

import logging
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import redis

from .connection import AWAY, address
from .errors import ConfigurationError
from .waiting import pauses

logger = logging.getLogger(__name__)

#: Seconds between two tries, and between two lines that say why there is none yet.
TRY_SECONDS: Final[float] = 1.0
TELL_SECONDS: Final[float] = 10.0

#: Seconds that a server has to answer in the other way, encrypted or not.
OTHER_SECONDS: Final[float] = 1.0


def reach(connection: redis.Redis, wait_seconds: float) -> None:
    """Return once Redis answers; a warning says at the start, and every ten seconds, why it does not.

    Raises:
        ConfigurationError: it did not answer for `wait_seconds`; or at once where waiting mends nothing: it refuses the
            login, the user may not use it, it is no Redis, or it is encrypted where the URL is not and vice versa.
        SystemExit: a signal ended the wait.
    """
    began, told_at = time.monotonic(), float("-inf")
    with pauses() as sleep:
        while (error := _error_of(connection)) is not None:
            reason = str(error).rstrip(".")
            waited = time.monotonic() - began
            if waited >= wait_seconds:
                raise ConfigurationError(
                    f"Redis at {address(connection)} did not answer within {wait_seconds:g} s: {reason}; is it running,"
                    " and is VAEFARM_REDIS_URL right? VAEFARM_REDIS_WAIT waits longer"
                )
            if time.monotonic() - told_at >= TELL_SECONDS:
                logger.warning("Redis at %s does not answer yet: %s", address(connection), reason)
                told_at = time.monotonic()
            sleep(min(TRY_SECONDS, wait_seconds - waited))


def _error_of(connection: redis.Redis) -> redis.RedisError | None:
    """Why Redis does not answer, None where it does. Raises ConfigurationError for what waiting does not mend."""
    try:
        connection.ping()
    except redis.RedisError as error:
        refusal = refusal_of(error)
        if refusal is None and _answers_otherwise(connection):
            is_plain = not _is_encrypted(connection)
            refusal = (
                "speaks TLS, and VAEFARM_REDIS_URL does not: expected rediss://"
                if is_plain
                else "speaks no TLS, and VAEFARM_REDIS_URL does: expected redis://"
            )
        if refusal is not None:
            raise ConfigurationError(f"Redis at {address(connection)} {refusal}") from error
        return error
    return None


def refusal_of(error: redis.RedisError) -> str | None:
    """What an error says that waiting mends nothing, to follow "Redis at ..."; None where it may."""
    text = str(error).rstrip(".")
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return f"refuses the login: {text}; check user and password in VAEFARM_REDIS_URL"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"lacks a permission for this user: {text}; see ACL SETUSER"
    if isinstance(error, redis.exceptions.InvalidResponse):
        return f"is no Redis: {text}; check host and port in VAEFARM_REDIS_URL"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"has a certificate that is not trusted: {cause.verify_message}; see ssl_ca_certs in redis-py's URLs"
    return None if isinstance(error, AWAY) else f"refuses a PING: {text.partition('. ')[0]}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _is_encrypted(connection: redis.Redis) -> bool:
    return issubclass(connection.connection_pool.connection_class, redis.SSLConnection)


def _answers_otherwise(connection: redis.Redis) -> bool:
    """Whether there is a Redis that is encrypted where the URL is not, or the other way round."""
    options = connection.connection_pool.connection_kwargs
    if "path" in options:
        return False
    other = redis.Redis(
        host=options.get("host", "localhost"),
        port=options.get("port", 6379),
        ssl=not _is_encrypted(connection),
        # Nothing is sent that others may not know: whether a server is there at all is asked.
        ssl_cert_reqs="none",
        ssl_check_hostname=False,
        socket_timeout=OTHER_SECONDS,
        socket_connect_timeout=OTHER_SECONDS,
    )
    with other, suppress(*AWAY):
        try:
            other.ping()
        except (redis.AuthenticationError, redis.ResponseError):
            return True
        except redis.exceptions.InvalidResponse:
            return False
        return True
    return False
