"""Submits in few round trips, each of which goes while the next one is packed."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from time import sleep
from typing import Final, TypeVar

from vaefarm_shared.errors import QueueFull, QuotaExceeded

from .backpressure import Patience
from .submission import PreparedJob
from .transport import Transport

T = TypeVar("T")

#: Bytes of latents in one round trip: enough to hide the trip, little enough to hold, and to repeat when refused. Twice
#: as many cost Redis a third more for each byte.
ROUND_TRIP_BYTES: Final[int] = 4 * 1024 * 1024

#: Jobs in one round trip.
ROUND_TRIP_JOBS: Final[int] = 500


def submit_all(transport: Transport, prepared: Iterable[PreparedJob], patience: Patience) -> list[str]:
    """Queue jobs, whose iterator packs them on this thread, and return their ids.

    One round trip is under way at a time, so none goes behind one of which the farm refused a job; of that one smaller
    jobs behind it may be taken. What the iterator raises is raised once the farm has answered; Ctrl-C waits for no
    answer, as without a thread.

    Raises what `Transport.submit` does, a refusal once `patience` is over.
    """
    ids: list[str] = []
    sent: list[PreparedJob] = []
    answer: Future[object] | None = None
    try:
        for batch, is_last in batches(prepared):
            if answer is not None:
                _await(transport, sent, answer, patience)
            sent, answer = batch, None
            if not is_last:
                answer = in_background(partial(transport.submit, batch))
            ids += (one.spec.id for one in batch)
    except Exception:
        if answer is not None:
            answer.exception()
        raise
    if sent:
        _await(transport, sent, answer, patience)
    return ids


def _await(
    transport: Transport, batch: Sequence[PreparedJob], answer: "Future[object] | None", patience: Patience
) -> None:
    """Return once the farm has a round trip, one that is under way already or is sent now."""
    while True:
        try:
            if answer is None:
                transport.submit(batch)
            else:
                answer.result()
            return
        except (QueueFull, QuotaExceeded) as refusal:
            # What was taken before the refusal is not queued twice when all is sent again.
            answer = None
            sleep(patience.after(refusal))


def in_background(call: Callable[[], T]) -> "Future[T]":
    """A future of what a call returns, on a thread that keeps no process from ending."""
    future: Future[T] = Future()
    context = copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(call))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="vaefarm-send", daemon=True).start()
    return future


def batches(jobs: Iterable[PreparedJob]) -> Iterator[tuple[list[PreparedJob], bool]]:
    """Jobs in their order, as many at a time as one round trip takes, and whether these are the last."""
    batch: list[PreparedJob] = []
    size = 0
    for job in jobs:
        if batch and (size + len(job.packed) > ROUND_TRIP_BYTES or len(batch) >= ROUND_TRIP_JOBS):
            yield batch, False
            batch, size = [], 0
        batch.append(job)
        size += len(job.packed)
    if batch:
        yield batch, True
