"""A worker's device: taken, where it may be any, so that no other worker has it; or told of, where it was chosen."""

import logging
import time
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

import redis

from vaefarm_shared import device_locks, quarantine
from vaefarm_shared.connection import is_away
from vaefarm_shared.device_locks import DeviceHold
from vaefarm_shared.errors import DeviceFault
from vaefarm_shared.silences import Silences
from vaefarm_shared.waiting import interruptible_sleep

from .lifeline import Lifeline

logger = logging.getLogger(__name__)

#: Seconds between two looks for a free device.
LOOK_SECONDS: Final[float] = 1.0

#: Seconds between two lines that say who has which.
TELL_SECONDS: Final[float] = 60.0


class Holding:
    """Takes a device for a worker; its lifeline holds on to it."""

    def __init__(
        self,
        connection: redis.Redis,
        lifeline: Lifeline,
        worker: str,
        lease_seconds: float,
        *,
        waits_for_release: bool = True,
    ) -> None:
        """`waits_for_release`: whether to wait while every device is quarantined, rather than do without."""
        self._connection = connection
        self._lifeline = lifeline
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._waits_for_release = waits_for_release

    def take(self, devices: Sequence[str]) -> str:
        """Take the first of the devices that nobody has; wait while there is none.

        Raises:
            DeviceFault: all are quarantined, and that is not waited for.
            SystemExit: a signal ended the wait.
        """
        token, silences = uuid4().hex[:16], Silences(self._connection, self._lease_seconds)
        told_at = float("-inf")
        with interruptible_sleep() as sleep:
            while True:
                try:
                    # After a silence those who had a device before come first.
                    hold = self._try_to_take(devices, token) if silences.are_over() else None
                    if hold is not None:
                        break
                    if time.monotonic() - told_at >= TELL_SECONDS and self._tell(devices):
                        told_at = time.monotonic()
                except redis.RedisError as error:
                    if not is_away(error):
                        raise
                    logger.warning("Redis is away: %s", error)
                sleep(LOOK_SECONDS)
        self._lifeline.have(hold)
        logger.info("worker %s takes device %s", self._worker, hold.device)
        return hold.device

    def share(self, device: str) -> None:
        """Tell that the worker uses a device that others may have as well."""
        hold = DeviceHold(device, uuid4().hex[:16], self._worker, shared=True)
        try:
            device_locks.renew(self._connection, hold, self._lease_seconds)
        except redis.RedisError as error:
            # The lifeline tells it again and again: who is away now hears of it later.
            if not is_away(error):
                raise
        self._lifeline.have(hold)

    def _try_to_take(self, devices: Sequence[str], token: str) -> DeviceHold | None:
        return device_locks.take(self._connection, devices, self._worker, token, self._lease_seconds)

    def _tell(self, devices: Sequence[str]) -> bool:
        """Say why no device is free: who has which, and which are quarantined; whether there was anything to say."""
        quarantined = {one.id: one.reason for one in quarantine.read_quarantined(self._connection)}
        holders = device_locks.read_workers(self._connection)
        whys = []
        for device in devices:
            if device in quarantined:
                whys.append(f"{device} is quarantined: {quarantined[device]} (vaefarm devices --release {device})")
            elif device in holders:
                whys.append(f"{device} is worker {' and '.join(holders[device])}'s")
        if not self._waits_for_release and all(device in quarantined for device in devices):
            raise DeviceFault("; ".join(whys))
        if whys:
            logger.warning("no device is free; worker %s waits for one: %s", self._worker, "; ".join(whys))
        return bool(whys)
