"""Many jobs on their way to the farm, sent beside the thread that makes them."""

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Final

from vaefarm_shared.errors import FarmError, JobNotFound, RetryLater

from .backpressure import Patience
from .outcome import ITS_OWN, Outcome
from .sending import ROUND_TRIP_BYTES, in_background
from .transport import Transport

#: Jobs that wait at most while a round trip is under way, and go together with the next.
MOST_WAITING: Final[int] = 32

#: Seconds for which the end of all waits for the farm's answer: what it takes later is decoded for nobody.
STOP_SECONDS: Final[float] = 5.0

AnyOutcome = Outcome[Any, Any]


class Outgoing:
    """Sends jobs in the order they were given, one round trip at a time, and together those that came meanwhile.

    A full farm is asked again and again, by the first job that it refused; none behind it is sent before it.
    """

    def __init__(
        self,
        transport: Transport,
        taken: Callable[[AnyOutcome], None],
        failed: Callable[[AnyOutcome, FarmError], None],
        moved: Callable[[BaseException | None], None],
    ) -> None:
        """All are called on the thread that sends.

        Args:
            taken: The farm has a job.
            failed: It never will, for an error of ITS_OWN.
            moved: There is room again; or an error that is no job's own, after which nothing is sent.
        """
        self._transport = transport
        self._taken, self._failed, self._moved = taken, failed, moved
        self._lock = threading.Lock()
        self._waiting: list[AnyOutcome] = []
        self._waiting_bytes = 0
        self._is_sending = self._is_refused = False
        self._sending: Future[None] | None = None
        self._ending = threading.Event()

    @property
    def has_room(self) -> bool:
        """Whether another may be given: few wait, and the farm is not full."""
        return not self._is_refused and len(self._waiting) < MOST_WAITING and self._waiting_bytes < ROUND_TRIP_BYTES

    def send(self, one: AnyOutcome) -> None:
        """Send a prepared job soon."""
        with self._lock:
            self._waiting.append(one)
            self._waiting_bytes += one.size_bytes
            if self._is_sending:
                return
            self._is_sending = True
        # On a daemon: a full farm, or one that is away, keeps no program from ending.
        self._sending = in_background(self._send_waiting)
        self._sending.add_done_callback(self._has_sent)

    def stop(self) -> None:
        """Send no more, and return once the farm has answered what is under way, within STOP_SECONDS."""
        self._ending.set()
        # At the interpreter's end its thread stands still already.
        if self._sending is not None and not sys.is_finalizing():
            wait([self._sending], STOP_SECONDS)

    def _has_sent(self, future: "Future[None]") -> None:
        if (error := future.exception()) is not None:
            self._moved(error)

    def _send_waiting(self) -> None:
        while batch := self._next():
            self._send(batch)
            self._moved(None)

    def _next(self) -> list[AnyOutcome]:
        """All that waits; nothing once it is stopped."""
        with self._lock:
            batch = [] if self._ending.is_set() else self._waiting
            self._waiting, self._waiting_bytes, self._is_sending = [], 0, bool(batch)
        return batch

    def _send(self, batch: Sequence[AnyOutcome]) -> None:
        if len(batch) > 1:
            try:
                self._transport.submit([one.prepared for one in batch if one.prepared is not None])
            except (RetryLater, *ITS_OWN):
                # Some may have been taken: one by one it shows which, and to submit those again changes nothing.
                pass
            else:
                for one in batch:
                    self._taken(one)
                return
        is_first = True
        for place, one in enumerate(batch, 1):
            assert one.prepared is not None
            while not self._ending.is_set():
                try:
                    self._transport.submit([one.prepared])
                except RetryLater as refusal:
                    self._is_refused = True
                    if is_first:
                        self._take_back(batch[place:])
                    is_first = False
                    self._ending.wait(Patience(True, None).after(refusal))
                except ITS_OWN as error:
                    self._failed(one, error)
                    break
                else:
                    self._taken(one)
                    break
            self._is_refused = False

    def _take_back(self, behind: Sequence[AnyOutcome]) -> None:
        """Discard what was taken behind a refusal, being smaller: its results would fill the farm, and not be handed
        over before those of the one that was refused, which then found no room for ever."""
        for one in behind:
            assert one.job_id is not None
            with suppress(JobNotFound):
                self._transport.discard(one.job_id)
