"""Paused VAEs: their jobs are taken in and wait, no worker claims them."""

import redis

from . import keys
from .told import text_of


def pause(connection: redis.Redis, vae: str) -> bool:
    """Let no worker claim jobs of a VAE; those in hand go on. False where it was paused already."""
    return bool(connection.sadd(keys.PAUSED, vae))


def resume(connection: redis.Redis, vae: str) -> bool:
    """Let workers claim jobs of a VAE again, at once. False where it was not paused."""
    resumed = bool(connection.srem(keys.PAUSED, vae))
    if resumed:
        connection.publish(keys.doorbell(vae), "")
    return resumed


def read_paused(connection: redis.Redis) -> list[str]:
    """The ids of the paused VAEs, sorted."""
    return sorted(text_of(vae) for vae in connection.smembers(keys.PAUSED))
