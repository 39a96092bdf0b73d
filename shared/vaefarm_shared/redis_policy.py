"""What a farm needs of its Redis: that it deletes nothing that was acknowledged, and keeps it when it ends.

INFO tells all but `appendfsync`; CONFIG GET is asked only where INFO is silent, since managed servers forbid it, and it
tells passwords too.
"""

from dataclasses import dataclass
from typing import Any, Final

import redis
from rq.utils import as_text

from .connection import address
from .errors import ConfigurationError

#: The oldest Redis whose commands we use.
MIN_VERSION: Final[tuple[int, int]] = (6, 2)

#: The one maxmemory-policy that never deletes a job.
NO_EVICTION: Final[str] = "noeviction"


@dataclass(frozen=True, slots=True)
class RedisPolicy:
    """What a Redis says of itself; None is what it does not tell."""

    #: Of the protocol and its commands: Valkey tells the Redis whose it has.
    version: str | None
    #: What it calls itself: "Redis 7.0.15", "Valkey 9.1.2"; "Redis" where it does not tell.
    product: str
    #: Bytes; 0 where there is no limit.
    maxmemory: int
    maxmemory_policy: str | None
    aof_enabled: bool | None
    #: `always`, `everysec` or `no`; None also where it was not asked.
    appendfsync: str | None

    @property
    def evicts(self) -> bool:
        """Whether it deletes keys of its own accord once it is full."""
        return self.maxmemory_policy is not None and self.maxmemory_policy != NO_EVICTION

    @property
    def is_too_old(self) -> bool:
        """Whether it lacks commands that we use."""
        parts = (self.version or "").split(".")
        return len(parts) >= 2 and all(map(str.isdigit, parts[:2])) and (int(parts[0]), int(parts[1])) < MIN_VERSION


def read_policy(connection: redis.Redis, *, asks_fsync: bool = True) -> RedisPolicy:
    """Ask Redis, in a few round trips; what it forbids to ask is None.

    `asks_fsync`: whether its appendfsync is asked for, which only CONFIG GET tells.
    """
    info = _info(connection)
    aof_enabled = info["aof_enabled"] if "aof_enabled" in info else _config(connection, "appendonly")
    return RedisPolicy(
        version=info.get("redis_version"),
        product=_product(info),
        maxmemory=int(info.get("maxmemory", 0)),
        maxmemory_policy=info.get("maxmemory_policy") or _config(connection, "maxmemory-policy"),
        aof_enabled=None if aof_enabled is None else aof_enabled in (1, "yes"),
        appendfsync=_config(connection, "appendfsync") if asks_fsync else None,
    )


def read_clock(connection: redis.Redis) -> float:
    """Redis' clock, Unix seconds: the one that everything of the farm goes by."""
    whole, micro = connection.time()
    return float(whole + micro / 1e6)


def check_policy(connection: redis.Redis, allow_eviction: bool) -> list[str]:
    """Refuse a Redis that evicts; return a line for each thing that is merely risky.

    Raises:
        ConfigurationError: its maxmemory-policy evicts, and that was not allowed; or it is too old.
    """
    policy, place = read_policy(connection, asks_fsync=False), f"Redis at {address(connection)}"
    if policy.is_too_old:
        raise ConfigurationError(f"{place} is version {policy.version}; expected 6.2 or newer")
    if policy.evicts and not allow_eviction:
        raise ConfigurationError(f"{place} {eviction(policy)}, or accept the loss with VAEFARM_ALLOW_EVICTION=true")
    warnings = [f"{place} {eviction(policy)}"] if policy.evicts else []
    if policy.maxmemory_policy is None:
        warnings.append(f"{place} does not tell its maxmemory-policy; expected {NO_EVICTION}")
    if policy.aof_enabled is False:
        warnings.append(f"{place} {NO_AOF}")
    return warnings


#: What is said of a Redis that forgets.
NO_AOF: Final[str] = (
    "has no append-only file: what was acknowledged is lost when it ends; set appendonly yes and appendfsync always"
)


def eviction(policy: RedisPolicy) -> str:
    """What is said of a Redis that evicts."""
    return (
        f"has maxmemory-policy {policy.maxmemory_policy}, which deletes acknowledged jobs when it is full;"
        f" set maxmemory-policy {NO_EVICTION}"
    )


def _product(info: dict[str, Any]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else "Redis"


def _info(connection: redis.Redis) -> dict[str, Any]:
    """The sections of INFO that tell of memory and durability; none where an ACL forbids it."""
    found: dict[str, Any] = {}
    try:
        # One call each: Redis 6.2 takes a single section.
        for section in ("server", "memory", "persistence"):
            found |= connection.info(section)
    except redis.exceptions.NoPermissionError:
        pass
    return found


def _config(connection: redis.Redis, name: str) -> str | None:
    try:
        value = connection.config_get(name).get(name)
    except redis.ResponseError:
        # Forbidden by an ACL, or renamed away as managed servers do.
        return None
    return None if value is None else as_text(value)
