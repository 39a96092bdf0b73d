"""Paused VAEs: their jobs are taken in and wait, no worker claims them."""

from typing import Final

import redis
from rq.utils import as_text

from . import keys

#: A set of VAE ids, bounded by the VAEs there are; an id stays until it is resumed.
PAUSED: Final[str] = f"{keys.PREFIX}paused"


def pause(connection: redis.Redis, vae: str) -> bool:
    """Let no worker claim jobs of a VAE; those in hand go on. False where it was paused already."""
    return bool(connection.sadd(PAUSED, vae))


def resume(connection: redis.Redis, vae: str) -> bool:
    """Let workers claim jobs of a VAE again, at once. False where it was not paused."""
    resumed = bool(connection.srem(PAUSED, vae))
    if resumed:
        connection.publish(keys.doorbell(vae), "")
    return resumed


def read_paused(connection: redis.Redis) -> list[str]:
    """The ids of the paused VAEs, sorted."""
    return sorted(as_text(vae) for vae in connection.smembers(PAUSED))
