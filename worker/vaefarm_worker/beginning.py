"""What a worker waits for before it begins: Redis and the store, and its device's release."""

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from redis import Redis, RedisError

from vaefarm_shared import quarantine
from vaefarm_shared.connection import is_away
from vaefarm_shared.errors import StoreAway
from vaefarm_shared.waiting import interruptible_sleep

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two tries while Redis or the store is away.
AWAY_WAIT_SECONDS: Final[float] = 2.0

#: Seconds between two looks whether a quarantined device was released.
QUARANTINE_WAIT_SECONDS: Final[float] = 2.0


def patiently(call: Callable[[], T]) -> T:
    """Repeat a call until Redis, or the store, answers: it may be away for a moment while its workers start."""
    with interruptible_sleep() as sleep:
        while True:
            try:
                return call()
            except RedisError as error:
                if not is_away(error):
                    raise
                logger.warning("Redis is away: %s", error)
            except StoreAway as error:
                logger.warning("the worker cannot begin yet: %s", error)
            sleep(AWAY_WAIT_SECONDS)


def wait_for_release(connection: Redis, device_id: str) -> None:
    """Return at once unless the device is quarantined, else when it is released: a supervisor that restarts the
    worker would only spin."""
    told = False
    with interruptible_sleep() as sleep:
        while (reason := quarantine.is_quarantined(connection, device_id)) is not None:
            if not told:
                logger.error(
                    "device %s is quarantined: %s; `vaefarm devices --release %s` lets it be used again",
                    *(device_id, reason, device_id),
                )
            told = True
            sleep(QUARANTINE_WAIT_SECONDS)
