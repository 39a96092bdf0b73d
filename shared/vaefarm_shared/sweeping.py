"""The sweep of what lies outside of Redis and is named by no record: once a while in the whole farm, where it costs."""

from collections.abc import Callable
from typing import Final

import redis

from . import keys
from .blobs import BlobStore
from .reading import named_blobs
from .redis_policy import read_clock
from .s3_blobs import S3Blobs

#: Seconds in which one worker of all lists a bucket, which is paid by the page.
LISTING_SECONDS: Final[int] = 900


def sweep(connection: redis.Redis, blobs: BlobStore, is_over: Callable[[], bool] = lambda: False) -> int:
    """Remove blobs that no record names; return how many. Ends early once `is_over`.

    Raises StoreAway, InvalidStore, OSError, and what redis-py raises.
    """
    if isinstance(blobs.outside, S3Blobs) and not connection.set(keys.SWEEPING, "", nx=True, ex=LISTING_SECONDS):
        return 0
    return blobs.sweep(lambda references: named_blobs(connection, references), read_clock(connection), is_over)
