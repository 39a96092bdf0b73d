"""The secret of a farm's gateways, from which everything that they sign is derived."""

import hmac
import secrets
import time
from typing import Final

import redis

from vaefarm_shared import keys
from vaefarm_shared.errors import ConfigurationError, FarmError

from .desk import Desk
from .settings import GatewaySettings

#: Bytes of a secret that is drawn, and characters of the shortest that an operator may set.
SECRET_BYTES: Final[int] = 32
SHORTEST: Final[int] = 16

#: Seconds for which what Redis has is believed: a Redis that lost it, and got another, is followed.
BELIEVED_SECONDS: Final[float] = 60.0


class Secret:
    """The operator's secret; without one, the one that the first gateway of the farm put into Redis."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Raises ConfigurationError for a secret that is short enough to be guessed."""
        given = settings.secret.get_secret_value() if settings.secret is not None else None
        if given is not None and len(given) < SHORTEST:
            raise ConfigurationError(
                f"VAEFARM_SECRET has {len(given)} characters; expected {SHORTEST} or more, such as `openssl rand -hex"
                " 32` prints, or none at all"
            )
        self._given = None if given is None else given.encode()
        self._found: bytes | None = None
        self._until = 0.0

    async def get(self, desk: Desk) -> bytes:
        """The secret. Redis is asked now and then; while it is away its last word counts. Raises FarmUnavailable."""
        if self._given is not None:
            return self._given
        if self._found is None or time.monotonic() > self._until:
            try:
                self._found = await desk.call(desk.transport.ask, find_secret)
            except FarmError:
                if self._found is None:
                    raise
            self._until = time.monotonic() + BELIEVED_SECONDS
        return self._found


def find_secret(connection: redis.Redis) -> bytes:
    """The secret in Redis, drawn now where there was none: of gateways that start together the first one's."""
    while True:
        if isinstance(found := connection.get(keys.SECRET), bytes):
            return found
        connection.set(keys.SECRET, secrets.token_hex(SECRET_BYTES), nx=True)


def derive(secret: bytes, purpose: str, owner: str = "") -> bytes:
    """32 bytes for one purpose and owner; who knows them knows neither the secret nor those of others."""
    return hmac.digest(secret, f"{purpose}\0{owner}".encode(), "sha256")
