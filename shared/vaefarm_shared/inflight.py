"""How many jobs of each owner but the admin have not ended: counted by the step that begins or ends one, checked by
submit against the owner's quota (`lua/submit.lua`), and put right here.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

import redis
from rq.utils import as_text

from . import keys
from .events import START, Reset, read_events
from .scripts import script

logger = logging.getLogger(__name__)

#: Statuses of jobs that have not ended.
UNENDED: Final = frozenset({b"queued", b"started"})


def read_inflight(connection: redis.Redis) -> dict[str, int]:
    """How many jobs of each owner but the admin have not ended; those without any are left out."""
    return {as_text(owner): int(count) for owner, count in connection.hgetall(keys.INFLIGHT).items()}


class OwnerCount:
    """Compares the counters with the records of a walk that begins now.

    Only an outsider's hand, or a key that Redis evicted, makes a counter drift. Of an owner of whom nothing happened
    during the walk what was counted is exact; the others wait for a walk in which nothing does.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        newest: Any = connection.xrevrange(keys.EVENTS, count=1)
        self._since = as_text(newest[0][0]) if newest else START
        self._before = read_inflight(connection)
        # By key: a walk may meet a record twice.
        self._jobs: dict[str, set[bytes]] = {}

    def add(self, records: Mapping[bytes, tuple[bytes | None, bytes | None]]) -> None:
        """Count records by their keys: status and owner."""
        for key, (status, owner) in records.items():
            if owner is not None and status in UNENDED:
                self._jobs.setdefault(owner.decode("utf-8", "replace"), set()).add(key)

    def correct(self) -> int:
        """Once every record was added: put the counters right; return how many were not."""
        counted = {owner: len(found) for owner, found in self._jobs.items()}
        owners = {one for one in counted | self._before if counted.get(one, 0) != self._before.get(one, 0)}
        corrected = 0
        for owner in owners - self._moved() if owners else ():
            before, now = self._before.get(owner, 0), counted.get(owner, 0)
            if script("correct_inflight").run(self._connection, owner, before, now):
                logger.warning(
                    "%s had %d jobs by count and %d by their records; that is right again", owner, before, now
                )
                corrected += 1
        return corrected

    def _moved(self) -> set[str]:
        """The owners of whom anything happened since the walk began; all of them where that cannot be told."""
        moved: set[str] = set()
        after = self._since
        try:
            while page := read_events(self._connection, after):
                moved.update(event.owner for event in page)
                after = page[-1].id
        except Reset:
            return {*self._before, *self._jobs}
        return moved
