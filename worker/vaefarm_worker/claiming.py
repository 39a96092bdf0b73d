"""From which queues a worker claims next, and how much: pure policy, without Redis and without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vaefarm_shared.leases import Source
from vaefarm_shared.queues import PRIORITIES

#: Every so many claims the lowest priority comes first, so that it always moves.
LOWEST_FIRST: Final[int] = 10

#: Seconds of device time that a batch may take, unless it is a single job; a second one waits meanwhile.
BATCH_SECONDS: Final[float] = 1.0

#: Jobs that a worker claims before it knows what a pixel costs.
FIRST_JOBS: Final[int] = 2

#: How far one batch moves the estimate of what a pixel costs.
LEARNING_RATE: Final[float] = 0.3


class ClaimOrder:
    """The order of sources for each claim: by priority; within one, VAEs take turns at going first."""

    def __init__(self, vaes: Sequence[str]) -> None:
        self._vaes = list(vaes)
        self._claims = 0

    def next(self, cost: "Cost", sizes: Mapping[str, Sequence[str]]) -> list[Source]:
        """The sources of the next claim, best first.

        Args:
            sizes: The size classes that the device holds, for each VAE to claim of.
        """
        self._claims += 1
        turn = self._claims % len(self._vaes)
        vaes = self._vaes[turn:] + self._vaes[:turn]
        priorities = list(PRIORITIES)
        if self._claims % LOWEST_FIRST == 0:
            priorities = [priorities[-1], *priorities[:-1]]
        return [
            Source(vae, priority, cost.seconds_per_pixel(vae), sizes[vae])
            for priority in priorities
            for vae in vaes
            if vae in sizes
        ]


@dataclass(slots=True)
class Cost:
    """What a pixel of each VAE costs the device, in seconds, learned from each batch, and how many a job has."""

    _learned: dict[str, float] = field(default_factory=dict)
    _pixels: dict[str, float] = field(default_factory=dict)

    def note(self, vae: str, pixels: int, seconds: float) -> None:
        """Learn from a batch."""
        fresh = seconds / pixels
        before = self._learned.get(vae, fresh)
        self._learned[vae] = before + LEARNING_RATE * (fresh - before)

    def note_pixels(self, vae: str, pixels: int) -> None:
        """Learn what jobs there are."""
        before = self._pixels.get(vae, float(pixels))
        self._pixels[vae] = before + LEARNING_RATE * (pixels - before)

    def job_seconds(self, vae: str) -> float:
        """What a job like those of late takes; 0 while nothing is known."""
        return self._pixels.get(vae, 0.0) * self.seconds_per_pixel(vae)

    def seconds_per_pixel(self, vae: str) -> float:
        """The estimate; 0 while there is none."""
        return self._learned.get(vae, 0.0)

    def seconds(self, vae: str, pixels: int) -> float:
        """What so many pixels will take; 0 while nothing is known."""
        return pixels * self.seconds_per_pixel(vae)

    def is_known(self, vae: str) -> bool:
        """Whether a batch of the VAE was decoded."""
        return vae in self._learned

    def batch_pixels(self, vae: str, most: int) -> int:
        """Pixels of a batch that takes at most `BATCH_SECONDS`, and at most `most`."""
        each = self._learned.get(vae)
        return most if not each else max(1, min(most, int(BATCH_SECONDS / each)))
