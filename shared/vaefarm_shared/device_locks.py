"""Which worker has which device: a lock on the device's UUID, leased as jobs are, so that N workers take N GPUs.

Workers that were told which device to use share it with others on purpose: they are entered all the same, so that those
that look for a free device leave it alone.

| key             | type | holds                                              | life                                   |
| --------------- | ---- | -------------------------------------------------- | -------------------------------------- |
| vaefarm:devices | hash | token -> JSON: device, worker, shared, since,      | entries: the worker's lease, by Redis' |
|                 |      | until                                              | clock; a day after the last renewal    |
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import redis

from . import keys
from .redis_policy import read_clock
from .scripts import script

DEVICES: Final[str] = f"{keys.PREFIX}devices"


@dataclass(frozen=True, slots=True)
class DeviceHold:
    """A device in a worker's hands: the token tells it from every other hold."""

    device: str
    token: str
    worker: str
    #: Whether others may have the device too.
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a device, and since when (Unix seconds by Redis' clock)."""

    device: str
    worker: str
    since: float
    shared: bool


def take(
    connection: redis.Redis, devices: Sequence[str], worker: str, token: str, lease_seconds: float
) -> DeviceHold | None:
    """Take the first of the devices that nobody has and that is not quarantined; None when there is none.

    May be repeated with the same token where its reply was lost.
    """
    taken = script("take_device").run(connection, lease_seconds, token, worker, *devices)
    return DeviceHold(taken.decode(), token, worker) if taken else None


def renew(connection: redis.Redis, hold: DeviceHold, lease_seconds: float) -> str | None:
    """Hold a device for another lease, also where the last has ended and nobody took it; the worker that did."""
    return _renewed(connection, hold, lease_seconds)


def lost_to(connection: redis.Redis, hold: DeviceHold) -> str | None:
    """The worker that took a device whose lease had ended; None while nobody did."""
    return _renewed(connection, hold, "")


def free(connection: redis.Redis, hold: DeviceHold) -> None:
    """Let others take the device. The token's own entry alone is removed, whoever has the device now."""
    connection.hdel(DEVICES, hold.token)


def read_holders(connection: redis.Redis) -> list[Holder]:
    """Who has which device now, by device and worker."""
    now, found = read_clock(connection), []
    for raw in connection.hvals(DEVICES):
        try:
            entry = json.loads(raw)
            if entry["until"] > now:
                found.append(
                    Holder(str(entry["device"]), str(entry["worker"]), float(entry["since"]), bool(entry["shared"]))
                )
        except (ValueError, TypeError, KeyError):
            # Somebody garbled it: nobody has a device by it.
            continue
    return sorted(found, key=lambda one: (one.device, one.worker))


def read_workers(connection: redis.Redis) -> dict[str, list[str]]:
    """The workers that have each device now."""
    found: dict[str, list[str]] = {}
    for one in read_holders(connection):
        found.setdefault(one.device, []).append(one.worker)
    return found


def _renewed(connection: redis.Redis, hold: DeviceHold, lease_seconds: float | str) -> str | None:
    is_held, *others = script("renew_device").run(
        connection, lease_seconds, hold.token, hold.device, hold.worker, "1" if hold.shared else ""
    )
    return None if is_held else str(others[0].decode("utf-8", "replace"))
