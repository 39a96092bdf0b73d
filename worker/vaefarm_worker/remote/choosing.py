"""Which endpoint is asked next: pure policy, without a network or a clock."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

#: A latency of nobody, in seconds, while none is known.
UNKNOWN_SECONDS: Final[float] = 1.0

#: No latency counts as less: what has faded away tells endpoints apart no more.
LEAST_SECONDS: Final[float] = 1e-3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candidate(Generic[T]):
    """An endpoint as it stands now."""

    endpoint: T
    can_be_asked: bool
    in_flight: int
    concurrency: int
    #: None while it has given no picture.
    latency_seconds: float | None
    #: In (0, 1].
    success_rate: float

    @property
    def has_slot(self) -> bool:
        """Whether it takes one request more."""
        return self.in_flight < self.concurrency


def choose(candidates: Iterable[Candidate[T]], avoided: Collection[T] = ()) -> T | None:
    """The endpoint at which a request that is begun now waits least, those that fail counted longer by that.

    Args:
        candidates: Those that the job may be sent to; none of which has a slot or may be asked gives None.
        avoided: Those that are asked only where no other is free.
    """
    free = [one for one in candidates if one.can_be_asked and one.has_slot]
    free = [one for one in free if one.endpoint not in avoided] or free
    if not free:
        return None
    # One that nobody has asked counts as the best of them, so that it is tried.
    best = min((one.latency_seconds for one in free if one.latency_seconds is not None), default=UNKNOWN_SECONDS)
    return min(free, key=lambda one: _cost(one, best)).endpoint


def _cost(one: Candidate[T], best_seconds: float) -> tuple[float, int]:
    latency = best_seconds if one.latency_seconds is None else one.latency_seconds
    return max(latency, LEAST_SECONDS) * (one.in_flight + 1) / one.success_rate, one.in_flight
