"""An idle worker's wait: woken at once by a submit, and by itself each second."""

import logging
import time
from collections.abc import Iterable

import redis

from vaefarm_shared import keys
from vaefarm_shared.connection import AWAY

logger = logging.getLogger(__name__)


class Doorbell:
    """A subscription to the doorbells of some VAEs. It stands before the first claim, so no ring is missed."""

    def __init__(self, connection: redis.Redis, vaes: Iterable[str]) -> None:
        self._pubsub = connection.pubsub(ignore_subscribe_messages=True)
        self._channels = [keys.doorbell(vae) for vae in vaes]

    def wait(self, seconds: float) -> None:
        """Return when it rings, after `seconds` at the latest."""
        try:
            if not self._pubsub.subscribed:
                self._pubsub.subscribe(*self._channels)
            self._pubsub.get_message(timeout=seconds)
        except AWAY as error:
            logger.warning("Redis is away: %s", error)
            time.sleep(seconds)

    def close(self) -> None:
        """Give the connection back."""
        self._pubsub.close()
