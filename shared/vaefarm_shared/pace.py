"""How fast the farm is: what a job of each VAE and size takes the device, learned from those that were decoded, and so
how much work waits and when a job's turn is over.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import redis

from . import keys
from .leases import number
from .queues import parts_of
from .told import text_of

#: Device seconds that a job counts as, while none of its VAE was decoded.
UNKNOWN_SECONDS: Final[float] = 1.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for one VAE."""

    queued: int
    #: Device seconds that it takes; None while no job of the VAE was decoded.
    device_seconds: float | None

    @property
    def estimate(self) -> float:
        """Device seconds that it takes, by a guess where nobody knows: work that waits is never nothing."""
        return self.queued * UNKNOWN_SECONDS if self.device_seconds is None else self.device_seconds


def read_pace(connection: redis.Redis) -> dict[tuple[str, str], float]:
    """Mean device seconds of a job, by VAE and size class."""
    return paces(connection.hgetall(keys.PACE))


def paces(raw: Mapping[Any, Any]) -> dict[tuple[str, str], float]:
    """The same of the hash as Redis gives it."""
    return {_key(text_of(field)): seconds for field, mean in raw.items() if (seconds := number(mean)) is not None}


def backlog(queues: Iterable[tuple[str, int]], pace: Mapping[tuple[str, str], float]) -> dict[str, Backlog]:
    """What waits for each VAE, by the names of queues and how many jobs each holds.

    Of a size that was never decoded, and of plain RQ jobs, a job counts as the mean of the VAE's sizes.
    """
    found = dict[str, Backlog]()
    for name, queued in queues:
        vae, _, size, _ = parts_of(name)
        before = found.get(vae, Backlog(0, 0.0))
        seconds = pace.get((vae, size), _mean(pace, vae))
        total = None
        if seconds is not None and before.device_seconds is not None:
            total = before.device_seconds + queued * seconds
        found[vae] = Backlog(before.queued + queued, total)
    return found


def eta_seconds(
    position: int, queue: str, queues: Iterable[tuple[str, int]], paces: Mapping[str, float], workers: int
) -> float | None:
    """Seconds until a queued job has been decoded, as far as one can tell; None where one cannot.

    Lanes take turns: until it is this one's, each other has been served as long as this one, or has nothing left. What
    has a higher priority goes first.

    Args:
        queues: The queues of its VAE that go before or beside, its own too, and how many jobs each holds.
        paces: Device seconds of a job of each size class.
        workers: How many serve it.
    """
    _, priority, size, _ = parts_of(queue)
    pace = paces.get(size)
    if pace is None or workers < 1:
        return None
    own = work = position * pace
    for name, queued in queues:
        _, other_priority, other_size, _ = parts_of(name)
        seconds = queued * paces.get(other_size, pace)
        if name != queue:
            work += min(own, seconds) if other_priority == priority else seconds
    return work / workers


def _mean(pace: Mapping[tuple[str, str], float], vae: str) -> float | None:
    known = [seconds for (one, _), seconds in pace.items() if one == vae]
    return fmean(known) if known else None


def _key(field: str) -> tuple[str, str]:
    vae, _, size = field.partition(":")
    return vae, size
