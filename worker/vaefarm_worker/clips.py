"""Clips: decoded videos, whose frames reach this host's memory a few at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

#: Bytes of the frames that are in this host's memory at a time; one frame at least.
CHUNK_BYTES: Final[int] = 32 * 1024 * 1024

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Clip:
    """One decoded video, wherever its frames lie."""

    #: (frames, height, width, 3 or 4).
    shape: tuple[int, int, int, int]
    #: The frames from one place up to another, uint8, in this host's memory.
    read: Callable[[int, int], Frames]
    #: What each chunk goes through on its way out.
    steps: tuple[Callable[[Frames], Frames], ...] = ()

    def chunks(self, chunk_bytes: int | None = None) -> Iterator[Frames]:
        """The frames in order, (n, height, width, 3 or 4) uint8: one chunk of them at a time.

        Who goes on to the next lets go of the one before. Raises whatever a step raises.
        """
        frames, height, width, channels = self.shape
        each = max(1, (chunk_bytes or CHUNK_BYTES) // (height * width * channels))
        for start in range(0, frames, each):
            chunk = self.read(start, min(start + each, frames))
            for step in self.steps:
                chunk = step(chunk)
            yield chunk

    def through(self, *steps: Callable[[Frames], Frames]) -> "Clip":
        """The same, with each chunk changed, or refused, by these steps besides."""
        return replace(self, steps=(*self.steps, *steps))
