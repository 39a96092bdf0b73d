"""Times in which Redis did not answer or took no writes, or this process stood still: nobody could renew, so leases are
past whose holders live."""

import time
from typing import Final

import redis

from .scripts import script

#: Seconds between two looks that are no silence yet: those that look do so each second.
GAP_SECONDS: Final[float] = 2.0


class Silences:
    """Has Redis write at each look; one who takes what others have lost holds still for a lease after a silence."""

    def __init__(self, connection: redis.Redis, lease_seconds: float) -> None:
        self._connection = connection
        self._lease_seconds = lease_seconds
        self._looked_at = float("-inf")
        self._patient_until = float("-inf")

    def are_over(self) -> bool:
        """Whether a lease has passed since the last silence; call it at each look. Raises what redis-py raises."""
        script("probe").run(self._connection)
        now = time.monotonic()
        if self._looked_at == float("-inf"):
            # A Redis that has just begun may have been away before.
            self._patient_until = now + self._lease_seconds - self._uptime()
        elif now - self._looked_at > max(GAP_SECONDS, self._lease_seconds / 2):
            self._patient_until = now + self._lease_seconds
        self._looked_at = now
        return now >= self._patient_until

    def _uptime(self) -> float:
        return float(self._connection.info("server")["uptime_in_seconds"])
