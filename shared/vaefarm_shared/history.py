"""History: how the farm stood every quarter of a minute of the last hour, for charts.

Gateways write it, of several the one whose turn it is: two looks at counters tell what was done between them.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import redis

from . import keys
from .leases import number
from .overview import Overview
from .overview_reading import read_overview

#: Seconds from one sample to the next, and for how many of them they are kept.
SAMPLE_SECONDS: Final[int] = 15
KEPT_SECONDS: Final[int] = 3600

#: Seconds for which one gateway's turn is its own: a little less than the time to the next.
TURN_SECONDS: Final[float] = SAMPLE_SECONDS - 1.0


class Sample(NamedTuple):
    """How the farm stood at a moment. None is what nobody told."""

    #: Unix seconds by Redis' clock.
    taken_at: float
    #: Jobs that were finished since the farm began.
    finished: int
    #: Device seconds that what waited was to take.
    backlog_seconds: float
    #: The mean share of the workers' devices in the ten seconds before.
    busy_share: float | None


def take_sample(connection: redis.Redis, budget_bytes: int | None, max_jobs: int) -> bool:
    """Keep how the farm stands if it is the caller's turn, and whether it was. The arguments are `read_overview`'s."""
    if not connection.set(keys.SAMPLING, "1", nx=True, px=int(TURN_SECONDS * 1000)):
        return False
    write_sample(connection, read_overview(connection, budget_bytes, max_jobs))
    return True


def write_sample(connection: redis.Redis, overview: Overview) -> None:
    """Keep how the farm stands; what is older than an hour goes."""
    sample: dict[str, float | int | None] = {
        "finished": sum(vae.finished for vae in overview.vaes),
        "backlog_seconds": overview.totals.backlog_seconds,
        "busy_share": overview.totals.busy_share,
    }
    told: Any = {name: value for name, value in sample.items() if value is not None}
    with connection.pipeline() as pipe:
        pipe.xadd(keys.HISTORY, told, maxlen=KEPT_SECONDS // SAMPLE_SECONDS, approximate=False)
        pipe.expire(keys.HISTORY, KEPT_SECONDS)
        pipe.execute()


def read_history(connection: redis.Redis) -> list[Sample]:
    """The samples of the last hour, the oldest first."""
    page: Any = connection.xrange(keys.HISTORY)
    return [_sample(entry_id, fields) for entry_id, fields in page]


def _sample(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Sample:
    def told(name: str) -> float | None:
        return number(fields.get(name.encode()))

    return Sample(
        taken_at=int(entry_id.partition(b"-")[0]) / 1000,
        finished=int(told("finished") or 0),
        backlog_seconds=told("backlog_seconds") or 0.0,
        busy_share=told("busy_share"),
    )
