"""Devices that keep failing: each exit for a device's fault is noted, and the third within ten minutes quarantines it.

| key                          | type | holds                                        | life                        |
| ---------------------------- | ---- | -------------------------------------------- | --------------------------- |
| vaefarm:device:{id}          | zset | exits by Redis' time, sixteen at most        | ten minutes after the last  |
| vaefarm:quarantine           | hash | device -> JSON: reason, since                | entries: until released     |
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import redis
from rq.utils import as_text

from . import keys
from .device_locks import read_workers
from .leases import number
from .redis_policy import read_clock
from .told import object_of

#: Seconds in which exits count together.
WINDOW_SECONDS: Final[int] = 600

#: Exits within the window that quarantine a device.
EXITS: Final[int] = 3

#: Exits that are kept for a device.
MAX_NOTED: Final[int] = 16

#: The reason of what somebody garbled.
UNREADABLE: Final[str] = "its reason cannot be read"

QUARANTINE: Final[str] = f"{keys.PREFIX}quarantine"


@dataclass(frozen=True, slots=True)
class Device:
    """A device that workers have, that failed of late, or that is quarantined."""

    id: str
    #: Exits for its fault within the last ten minutes.
    exits: int
    #: Why it is quarantined; None where it is not.
    reason: str | None = None
    #: Since when, Unix seconds by Redis' clock.
    since: float | None = None
    #: The workers that have it now.
    workers: list[str] = field(default_factory=list)


def exits_key(device_id: str) -> str:
    """The exits noted for a device."""
    return f"{keys.PREFIX}device:{device_id}"


def note_exit(connection: redis.Redis, device_id: str, reason: str) -> int:
    """Record that a process ends for its device's fault; return how many did within ten minutes."""
    now, key = read_clock(connection), exits_key(device_id)
    with connection.pipeline() as pipe:
        pipe.zadd(key, {uuid4().hex: now})
        pipe.zremrangebyscore(key, "-inf", now - WINDOW_SECONDS)
        pipe.zremrangebyrank(key, 0, -MAX_NOTED - 1)
        pipe.expire(key, WINDOW_SECONDS)
        pipe.zcard(key)
        exits = int(pipe.execute()[-1])
    if exits >= EXITS:
        # The first reason stays: later exits are of processes that were started all the same.
        connection.hsetnx(QUARANTINE, device_id, json.dumps({"reason": reason, "since": now}))
    return exits


def is_quarantined(connection: redis.Redis, device_id: str) -> str | None:
    """Why a device is quarantined, or None where it is not."""
    raw = connection.hget(QUARANTINE, device_id)
    return None if raw is None else read_entry(raw)[0]


def release(connection: redis.Redis, device_id: str) -> bool:
    """Let a device be used again and forget its exits; False where it was not quarantined."""
    with connection.pipeline() as pipe:
        pipe.hdel(QUARANTINE, device_id)
        pipe.delete(exits_key(device_id))
        return bool(pipe.execute()[0])


def read_quarantined(connection: redis.Redis) -> list[Device]:
    """The quarantined devices, by id, in a few round trips."""
    quarantined = {as_text(name): raw for name, raw in connection.hgetall(QUARANTINE).items()}
    return _told(connection, quarantined, read_workers(connection) if quarantined else {})


def read_devices(connection: redis.Redis) -> list[Device]:
    """Devices that workers have, that failed within ten minutes or are quarantined, by id; walks over every key."""
    workers = read_workers(connection)
    quarantined = {as_text(name): raw for name, raw in connection.hgetall(QUARANTINE).items()}
    noted = (as_text(key) for key in connection.scan_iter(match=exits_key("*"), count=1000))
    failed = {name.removeprefix(exits_key("")): None for name in noted}
    return _told(connection, dict.fromkeys(workers) | failed | quarantined, workers)


def _told(connection: redis.Redis, found: dict[str, Any], workers: Mapping[str, list[str]]) -> list[Device]:
    """The devices of these names, and what is known of each."""
    since = read_clock(connection) - WINDOW_SECONDS
    names = sorted(found)
    with connection.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.zcount(exits_key(name), since, "+inf")
        counts = pipe.execute()
    return [
        Device(name, exits, *read_entry(found[name]), workers.get(name, []))
        for name, exits in zip(names, counts, strict=True)
    ]


def read_entry(raw: bytes | str | None) -> tuple[str | None, float | None]:
    """Reason and time of a quarantine; what somebody garbled is quarantined all the same."""
    if raw is None:
        return None, None
    written = object_of(raw) or {}
    since = written.get("since")
    return str(written.get("reason", UNREADABLE)), number(str(since))
