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

    A full farm is asked again and again. Where results are wanted in order none is taken before one that was refused.
    """

    def __init__(
        self,
        transport: Transport,
        taken: Callable[[AnyOutcome], None],
        failed: Callable[[AnyOutcome, FarmError], None],
        moved: Callable[[BaseException | None], None],
        ordered: bool,
    ) -> None:
        """All are called on the thread that sends.

        Args:
            ordered: Results are handed over in this order, and nobody else has jobs of these ids, nor had.
            taken: The farm has a job.
            failed: It never will, for an error of ITS_OWN.
            moved: There is room again; or an error that is no job's own, after which nothing is sent.
        """
        self._transport = transport
        self._taken, self._failed, self._moved = taken, failed, moved
        self._ordered = ordered
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
        left, is_first = list(batch), True
        while left and not self._ending.is_set():
            left, seconds = self._send_each(left)
            self._is_refused = bool(left)
            if self._ordered and is_first:
                # Only the round trip of all can have brought those behind a refusal.
                self._take_back(left[1:])
            is_first = False
            if left:
                self._ending.wait(seconds)

    def _send_each(self, batch: Sequence[AnyOutcome]) -> tuple[list[AnyOutcome], float]:
        """Send one by one, in order none behind a refusal; what is left, and seconds to wait before it goes again."""
        refused: list[AnyOutcome] = []
        seconds = 0.0
        for place, one in enumerate(batch):
            assert one.prepared is not None
            try:
                self._transport.submit([one.prepared])
            except RetryLater as refusal:
                seconds = Patience(True, None).after(refusal)
                if self._ordered:
                    return list(batch[place:]), seconds
                refused.append(one)
            except ITS_OWN as error:
                self._failed(one, error)
            else:
                self._taken(one)
        return refused, seconds

    def _take_back(self, behind: Sequence[AnyOutcome]) -> None:
        """Discard what was taken behind a refusal, being smaller: its results would fill the farm, and not be handed
        over before those of the one that was refused, which then found no room for ever."""
        for one in behind:
            assert one.job_id is not None
            with suppress(JobNotFound):
                self._transport.discard(one.job_id)
