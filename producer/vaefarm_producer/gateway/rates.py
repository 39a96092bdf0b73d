"""Rates of keys, counted in Redis by its clock, so that the gateways of a farm share them."""

import math
import time
from functools import cache
from typing import Final

import redis
from limits import RateLimitItem, parse_many
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from vaefarm_shared import keys
from vaefarm_shared.errors import TooManyRequests

from .access import Principal
from .desk import Desk

#: Reads a rate once.
items: Final = cache(parse_many)


class Rates:
    """Counts requests: two numbers in Redis for each rate of a key, which live for two of its spans."""

    def __init__(self) -> None:
        self._limiter: SlidingWindowCounterRateLimiter | None = None

    async def count(self, desk: Desk, principal: Principal) -> None:
        """Count a request. Raises TooManyRequests where the rate is used up; FarmUnavailable."""
        if principal.rate is not None:
            await desk.call(desk.transport.ask, self._count, principal.name, principal.rate)

    def _count(self, connection: redis.Redis, name: str, rate: str) -> None:
        limiter = self._limiter or self._connect(connection)
        for item in items(rate):
            if not limiter.hit(item, name):
                wait = _wait(limiter, item, name)
                raise TooManyRequests(f"the key {name!r} may make {rate} requests; try again in {wait} s", wait)

    def _connect(self, connection: redis.Redis) -> SlidingWindowCounterRateLimiter:
        # Its pool and so its rules: nothing is repeated, and what it raises is told as of ours.
        storage = RedisStorage("redis://", connection_pool=connection.connection_pool, key_prefix=keys.RATE)
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        return self._limiter


def _wait(limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, name: str) -> int:
    """Whole seconds, 1 or more, after which a request may be let through."""
    return max(1, math.ceil(limiter.get_window_stats(item, name).reset_time - time.time()))
