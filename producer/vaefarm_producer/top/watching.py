"""Looking at the farm again and again, on a thread: who draws never waits for Redis or a gateway."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from vaefarm_shared.errors import FarmError, FarmUnavailable, TooManyRequests
from vaefarm_shared.overview import Overview

from ..farm import Farm

#: Looks of which the images a second are kept.
MOST_LOOKS: Final[int] = 600

#: Errors that pass: the last picture stays until the farm is back.
PASSING: Final = (FarmUnavailable, TooManyRequests)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen last, and what went wrong since."""

    overview: Overview
    history: tuple[float, ...]
    #: Why the farm is not seen now, and since when, Unix seconds.
    away: str = ""
    away_since: float = 0.0


class Watcher:
    """Looks once in `interval` seconds."""

    def __init__(self, farm: Farm, interval: float) -> None:
        """Looks for the first time. Raises what `Farm.overview` raises."""
        self._farm = farm
        self._interval = interval
        self._history: deque[float] = deque(maxlen=MOST_LOOKS)
        self._over = threading.Event()
        self._fault: FarmError | None = None
        self._seen = self._noted(farm.overview())
        self._thread = threading.Thread(target=self._look, name="vaefarm-top", daemon=True)
        self._thread.start()

    def seen(self) -> Seen:
        """What was seen last. Raises what looking raised, where waiting does not help."""
        if self._fault is not None:
            raise self._fault
        return self._seen

    def stop(self) -> None:
        """Look no more; what is under way is not waited for long."""
        self._over.set()
        self._thread.join(1.0)

    def _look(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self._seen = self._noted(self._farm.overview())
            except PASSING as error:
                if not error.retryable:
                    self._fault = error
                    return
                since = self._seen.away_since or time.time()
                self._seen = Seen(self._seen.overview, self._seen.history, str(error), since)
            except FarmError as error:
                self._fault = error
                return
            except Exception as error:
                # On a thread nobody would ever hear of it.
                self._fault = FarmError(f"what the farm says of itself cannot be read: {type(error).__name__}: {error}")
                return

    def _noted(self, overview: Overview) -> Seen:
        self._history.append(overview.totals.images_per_second or 0.0)
        return Seen(overview, tuple(self._history))
