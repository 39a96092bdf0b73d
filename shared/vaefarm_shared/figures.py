"""What a worker has done since it began: counters and histograms, as its description carries them to whoever shows the
farm. They begin anew with each process."""

import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: Upper bounds of the classes of seconds, and of jobs in a batch; one more class is above the last.
SECONDS: Final[tuple[float, ...]] = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)
JOBS: Final[tuple[float, ...]] = (1, 2, 4, 8, 16, 32, 64)

#: The stages of a finished job: from submit to claim; on the device, its share of the batch; making its files; from
#: there until it is settled.
STAGES: Final[tuple[str, ...]] = ("queued", "decode", "encode", "store")


class Histogram(BaseModel):
    """How many observations fell into each class, and their sum."""

    model_config = ConfigDict(extra="ignore")

    counts: list[int]
    sum: float = 0.0

    @classmethod
    def empty(cls, bounds: Sequence[float]) -> "Histogram":
        """Of nothing yet."""
        return cls(counts=[0] * (len(bounds) + 1))

    def note(self, value: float, bounds: Sequence[float]) -> None:
        """Count one observation; a bound belongs to the class below it."""
        self.counts[bisect_left(bounds, value)] += 1
        self.sum += value

    def buckets(self, bounds: Sequence[float]) -> list[tuple[str, float]]:
        """Each bound with how many observations were at most that, as Prometheus wants them."""
        total, found = 0, []
        for bound, count in zip([*(str(float(bound)) for bound in bounds), "+Inf"], self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Counted(BaseModel):
    """All of a worker's figures, by VAE; seconds by VAE and stage."""

    model_config = ConfigDict(extra="ignore")

    batches: dict[str, Histogram] = Field(default_factory=dict)
    seconds: dict[str, dict[str, Histogram]] = Field(default_factory=dict)


class Figures:
    """A worker's `Counted`, noted by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted = Counted()

    def note_batch(self, vae: str, jobs: int) -> None:
        """A batch was decoded."""
        with self._lock:
            batches = self._counted.batches
            if vae not in batches:
                batches[vae] = Histogram.empty(JOBS)
            batches[vae].note(jobs, JOBS)

    def note_job(self, vae: str, seconds: dict[str, float]) -> None:
        """A job was finished; `seconds` by stage."""
        with self._lock:
            stages = self._counted.seconds.setdefault(vae, {})
            for stage, value in seconds.items():
                if stage not in stages:
                    stages[stage] = Histogram.empty(SECONDS)
                stages[stage].note(value, SECONDS)

    def read(self) -> dict[str, Any]:
        """As JSON's values."""
        with self._lock:
            return self._counted.model_dump(mode="json")


def read_counted(description: dict[str, Any]) -> Counted:
    """The figures in a worker's description; none where another release wrote it otherwise."""
    try:
        counted = Counted.model_validate(description.get("counted") or {})
    except ValidationError:
        return Counted()
    if all(len(one.counts) == len(JOBS) + 1 for one in counted.batches.values()) and all(
        len(one.counts) == len(SECONDS) + 1 for stages in counted.seconds.values() for one in stages.values()
    ):
        return counted
    return Counted()
