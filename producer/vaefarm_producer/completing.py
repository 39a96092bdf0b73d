"""Jobs in the order in which they end."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final

from vaefarm_shared.errors import FarmUnavailable, RetryLater, WaitTimeout
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus

from .handle import Job, read_together
from .transport import Transport

#: Jobs whose ends are waited for without a look at how they stand.
FEW_JOBS: Final[int] = 32


def completed(transport: Transport, jobs: Sequence[Job], timeout: float | None, discard: bool) -> Iterator[Job]:
    """What `Farm.as_completed` gives."""
    end = None if timeout is None else monotonic() + timeout
    ended: SimpleQueue[int] = SimpleQueue()
    waiting: dict[int, Future[JobStatus]] = {}
    over: Future[JobStatus] = Future()
    over.set_result(JobStatus.FINISHED)
    for place, (job, has_ended) in enumerate(zip(jobs, have_ended(transport, jobs), strict=True)):
        waiting[place] = over if has_ended else job.ended()
        waiting[place].add_done_callback(partial(tell, ended, place))
    try:
        while waiting:
            places = together(ended, None if end is None else max(0.0, end - monotonic()))
            if not places:
                raise WaitTimeout(f"{len(waiting)} jobs have not ended within {timeout} seconds; they live on")
            read_together(transport, [jobs[place] for place in places])
            for place in places:
                waiting.pop(place).result()
                yield jobs[place]
                if discard:
                    jobs[place].discard()
    finally:
        for future in waiting.values():
            future.cancel()


def have_ended(transport: Transport, jobs: Sequence[Job]) -> list[bool]:
    """Which of many jobs have ended already: a look at all costs less than to wait for each. Of few, none is told."""
    if len(jobs) > FEW_JOBS:
        # While the farm is away, or asked too often, they are waited for.
        with suppress(FarmUnavailable, RetryLater):
            return [status in TERMINAL_STATUSES for status in transport.statuses([job.id for job in jobs])]
    return [False] * len(jobs)


def tell(ended: "SimpleQueue[int]", place: int, _: "Future[JobStatus]") -> None:
    """Say that the job of that place has ended."""
    ended.put(place)


def together(ended: "SimpleQueue[int]", seconds: float | None) -> list[int]:
    """What is in the queue, in order, after waiting for the first; empty after `seconds`."""
    places = []
    with suppress(Empty):
        places.append(ended.get(timeout=seconds))
        while True:
            places.append(ended.get_nowait())
    return sorted(places)
