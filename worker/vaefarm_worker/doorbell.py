"""An idle worker's wait: woken at once by a submit, and by itself each second."""

import logging
import time
from collections.abc import Iterable
from uuid import uuid4

import redis

from vaefarm_shared import keys
from vaefarm_shared.connection import AWAY

logger = logging.getLogger(__name__)


class Doorbell:
    """A subscription to the doorbells of some VAEs. It stands before the first claim, so no ring is missed."""

    def __init__(self, connection: redis.Redis, vaes: Iterable[str]) -> None:
        self._connection = connection
        self._pubsub = connection.pubsub()
        self._wake = keys.wake(uuid4().hex)
        self._channels = [self._wake, *map(keys.doorbell, vaes)]

    def listen(self) -> None:
        """Subscribe, if that has not been done. Raises what redis-py raises while Redis is away."""
        if not self._pubsub.subscribed:
            self._pubsub.subscribe(*self._channels)

    def wait(self, seconds: float) -> None:
        """Return when it rings, after `seconds` at the latest; every ring so far is heard then."""
        try:
            self.listen()
            if self._pubsub.get_message(timeout=seconds) is not None:
                while self._pubsub.get_message(timeout=0.0) is not None:
                    pass
        except AWAY as error:
            logger.warning("Redis is away: %s", error)
            self._pubsub.reset()
            time.sleep(seconds)

    def wake(self) -> None:
        """End a wait of another thread."""
        try:
            self._connection.publish(self._wake, "")
        except AWAY as error:
            logger.debug("Redis is away, the wait ends by itself: %s", error)

    def close(self) -> None:
        """Give the connection back."""
        self._pubsub.close()
