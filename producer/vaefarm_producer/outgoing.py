"""Many jobs on their way to the farm, sent beside the thread that makes them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from vaefarm_shared.errors import FarmError, RetryLater

from .backpressure import Patience
from .outcome import ITS_OWN, Outcome
from .sending import ROUND_TRIP_BYTES
from .transport import Transport

#: Jobs that wait at most while a round trip is under way, and go together with the next.
MOST_WAITING: Final[int] = 32

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
        self._is_refused = False
        self._ending = threading.Event()
        self._thread = ThreadPoolExecutor(1, "vaefarm-send")

    @property
    def has_room(self) -> bool:
        """Whether another may be given: few wait, and the farm is not full."""
        return not self._is_refused and len(self._waiting) < MOST_WAITING and self._waiting_bytes < ROUND_TRIP_BYTES

    def send(self, one: AnyOutcome) -> None:
        """Send a prepared job soon."""
        with self._lock:
            self._waiting.append(one)
            self._waiting_bytes += one.size_bytes
        self._thread.submit(self._send_waiting).add_done_callback(self._has_sent)

    def stop(self) -> None:
        """Send no more, and return once the farm has answered what is under way."""
        self._ending.set()
        self._thread.shutdown(wait=True)

    def _has_sent(self, future: "Future[None]") -> None:
        error = future.exception()
        if error is not None:
            self._ending.set()
        self._moved(error)

    def _send_waiting(self) -> None:
        """Send all that waits: what was given after the call that this is for as well."""
        with self._lock:
            batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if batch and not self._ending.is_set():
            self._send(batch)

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
        for one in batch:
            self._send_one(one)

    def _send_one(self, one: AnyOutcome) -> None:
        assert one.prepared is not None
        while not self._ending.is_set():
            try:
                self._transport.submit([one.prepared])
            except RetryLater as refusal:
                self._is_refused = True
                self._ending.wait(Patience(True, None).after(refusal))
            except ITS_OWN as error:
                self._failed(one, error)
                break
            else:
                self._taken(one)
                break
        self._is_refused = False
