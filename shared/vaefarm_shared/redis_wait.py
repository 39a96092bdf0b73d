"""The first contact of a service with Redis: it may start after them, and what waiting cannot mend ends them."""

import logging
import time
from contextlib import suppress
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .connection import AWAY, address, is_away, is_encrypted, refusal
from .errors import ConfigurationError
from .scripts import script
from .waiting import interruptible_sleep

logger = logging.getLogger(__name__)

#: Seconds between two tries, and between two lines that say why there is none yet.
TRY_SECONDS: Final[float] = 1.0
TELL_SECONDS: Final[float] = 10.0

#: What replies begin with while a script takes long.
BUSY: Final = "BUSY "

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
    with interruptible_sleep() as sleep:
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
        # A write, and both of the farm's kinds of keys: what a user may do, and whether this is a replica.
        script("probe").run(connection)
    except redis.RedisError as error:
        refused = refusal(connection, error)
        if refused is None and not is_away(error) and not str(error).startswith(BUSY):
            refused = f"refuses what a farm does: {str(error).partition('. ')[0]}"
        if refused is None and _answers_otherwise(connection):
            is_plain = not is_encrypted(connection)
            refused = (
                "speaks TLS, and VAEFARM_REDIS_URL does not: expected rediss://"
                if is_plain
                else "speaks no TLS, and VAEFARM_REDIS_URL does: expected redis://"
            )
        if refused is not None:
            raise ConfigurationError(f"Redis at {address(connection)} {refused}") from error
        return error
    return None


def _answers_otherwise(connection: redis.Redis) -> bool:
    """Whether there is a Redis that is encrypted where the URL is not, or the other way round."""
    options = connection.connection_pool.connection_kwargs
    if "path" in options:
        return False
    other = redis.Redis(
        host=options.get("host", "localhost"),
        port=options.get("port", 6379),
        ssl=not is_encrypted(connection),
        # Nothing is sent that others may not know: whether a server is there at all is asked.
        ssl_cert_reqs="none",
        ssl_check_hostname=False,
        socket_timeout=OTHER_SECONDS,
        socket_connect_timeout=OTHER_SECONDS,
        retry=Retry(NoBackoff(), 0),
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
