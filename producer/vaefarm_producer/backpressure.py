"""A farm that takes no more just now: how long a refused submit waits."""

import random
from math import inf
from time import monotonic
from typing import Final

from vaefarm_shared.errors import InvalidOption, RetryLater

#: By how much of itself a suggested wait is stretched at most, so that those who wait do not come back together.
JITTER: Final[float] = 0.5


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
