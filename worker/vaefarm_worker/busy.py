"""How long a device has decoded, and what it decodes now."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vaefarm_shared.job import JobSpec


class Busy:
    """Written by the device's thread alone, read by any."""

    def __init__(self) -> None:
        #: Seconds of what is over, and the jobs of the batch that is decoded now with when that began: in one piece, so
        #: that a reader never counts a batch twice.
        self._now: tuple[float, Sequence[JobSpec], float] = 0.0, (), 0.0

    @property
    def seconds(self) -> float:
        """Seconds for which the device has decoded, those of the batch that it decodes now too."""
        seconds, specs, began = self._now
        return seconds + time.monotonic() - began if specs else seconds

    def batch(self) -> dict[str, Any] | None:
        """The batch that the device decodes now, as a worker tells of it; None where it decodes nothing."""
        _, specs, began = self._now
        if not specs:
            return None
        pictures = sum(spec.count for spec in specs)
        seconds = round(time.monotonic() - began, 3)
        return {"vae": specs[0].vae, "jobs": len(specs), "pictures": pictures, "seconds": seconds}

    @contextmanager
    def decoding(self, specs: Sequence[JobSpec]) -> Iterator[None]:
        """The device decodes a batch of these jobs meanwhile."""
        self._now = self.seconds, specs, time.monotonic()
        try:
            yield
        finally:
            self._now = self.seconds, (), 0.0
