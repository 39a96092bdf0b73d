"""A farm that takes no more just now: how submits are cut into round trips, and how long a refused one waits."""

import random
from collections.abc import Iterable, Iterator
from math import inf
from time import monotonic
from typing import Final

from vaefarm_shared.errors import InvalidOption, RetryLater

from .submission import PreparedJob

#: Bytes of latents in one round trip: enough to hide the trip, little enough to hold, and to repeat when refused.
ROUND_TRIP_BYTES: Final[int] = 8 * 1024 * 1024

#: Jobs in one round trip.
ROUND_TRIP_JOBS: Final[int] = 500

#: By how much of itself a suggested wait is stretched at most, so that those who wait do not come back together.
JITTER: Final[float] = 0.5


def batches(jobs: Iterable[PreparedJob]) -> Iterator[list[PreparedJob]]:
    """Jobs in their order, as many at a time as one round trip takes."""
    batch: list[PreparedJob] = []
    size = 0
    for job in jobs:
        if batch and (size + len(job.packed) > ROUND_TRIP_BYTES or len(batch) >= ROUND_TRIP_JOBS):
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += len(job.packed)
    if batch:
        yield batch


class Patience:
    """How long one submit waits out a full farm: not at all, so many seconds, or without limit."""

    def __init__(self, block: bool, timeout: float | None) -> None:
        """Raises InvalidOption for a timeout without `block`."""
        if timeout is not None and not block:
            raise InvalidOption(f"timeout={timeout!r} is for block=True: without it a full farm refuses at once")
        self._end = -inf if not block else inf if timeout is None else monotonic() + timeout

    def after(self, refusal: RetryLater) -> float:
        """Seconds to wait before the next try. Raises the refusal when there is none."""
        left = self._end - monotonic()
        if left <= 0:
            raise refusal
        return min(refusal.retry_after_seconds * random.uniform(1.0, 1.0 + JITTER), left)
