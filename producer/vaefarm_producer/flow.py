"""Many jobs, so many of them under way at a time: pulled, submitted, waited for, collected and handed over."""

import logging
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final, Generic, TypeVar

from vaefarm_shared.errors import FarmError, InvalidOption, UnknownVae, WaitTimeout
from vaefarm_shared.job import JobStatus

from .collectors import COLLECTORS, Collectors, Stopped
from .handle import Job
from .outcome import ITS_OWN, Outcome, Stage
from .outgoing import Outgoing
from .submission import PreparedJob
from .transport import Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

#: Jobs under way unless told otherwise: some batches for each of several devices, 200 MB of pictures of 1024 x 1024.
WINDOW: Final[int] = 128

#: Seconds for which items are pulled before the next look at what has ended.
PULL_SECONDS: Final[float] = 0.02


class Flow(Generic[T, R]):
    """Makes jobs of items and hands over what became of each; at most `window` are pulled and not handed over.

    All happens on the thread that iterates, but for what waits for an answer of the farm: sending, fetching and
    discarding. So the items' iterator makes the next while one is acknowledged. A full farm is waited for, and what
    has ended is handed over meanwhile: a result that nobody takes may be what fills it.
    """

    def __init__(
        self,
        transport: Transport,
        items: Iterable[T],
        prepare: Callable[[T], PreparedJob],
        collect: Callable[[T, Job], R],
        *,
        window: int = WINDOW,
        ordered: bool = True,
        timeout: float | None = None,
        patience_seconds: float = 30.0,
        is_owner: bool = True,
    ) -> None:
        """`prepare` runs on the iterating thread, `collect` on another; what they raise of ITS_OWN is the job's.

        Args:
            ordered: Hand over in the order of the items, else as they end.
            timeout: Seconds for all.
            patience_seconds: For how long `collect` is repeated while the farm is not reachable.
            is_owner: Discard each job once the next is asked for; cancel what is under way when the flow ends early.

        Raises InvalidOption.
        """
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise InvalidOption(f"window={window!r}; expected how many jobs may be under way, 1 or more")
        self._transport = transport
        self._items = iter(items)
        self._prepare, self._collect = prepare, collect
        self._window, self._ordered, self._is_owner = window, ordered, is_owner
        self._timeout = timeout
        self._under_way: dict[int, Outcome[T, R]] = {}
        self._pulled = 0
        self._pid = os.getpid()
        self._is_exhausted = False
        #: What happened on other threads, to be noted on the iterating one.
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._collectors = Collectors(transport, patience_seconds)
        self._outgoing = Outgoing(transport, self._follow, self._tell_failed, self._tell_moved, ordered and is_owner)

    def outcomes(self) -> Generator[Outcome[T, R], None, None]:
        """What becomes of each item's job; once. Close it to end early.

        Raises:
            WaitTimeout: `timeout` is over.
            FarmUnavailable, ConfigurationError, UnknownVae: what is no job's own; and what the items' iterator raises.
        """
        end = None if self._timeout is None else monotonic() + self._timeout
        try:
            while True:
                self._note()
                self._collect_ahead()
                if (done := self._next_done()) is not None:
                    yield done
                    self._forget(done)
                elif end is not None and monotonic() >= end:
                    left = len(self._under_way)
                    raise WaitTimeout(f"{left} jobs have not ended within {self._timeout} seconds")
                elif not self._pull():
                    if not self._under_way:
                        return
                    self._wait(end)
        finally:
            self._end()

    def stop(self) -> None:
        """Have `outcomes` raise Stopped; from any thread."""
        self._events.put(self._raise_stopped)

    def _raise_stopped(self) -> None:
        raise Stopped

    def _note(self) -> None:
        while not self._events.empty():
            self._events.get()()

    def _wait(self, end: float | None) -> None:
        """Wait for something to happen, or for the end of the time."""
        with suppress(Empty):
            self._events.get(timeout=None if end is None else max(0.0, end - monotonic()))()

    def _pull(self) -> bool:
        """Take items as long as there is room and they come quickly; False where none was taken."""
        end, before = monotonic() + PULL_SECONDS, self._pulled
        while not self._is_exhausted and len(self._under_way) < self._window and self._outgoing.has_room:
            try:
                item = next(self._items)
            except StopIteration:
                self._is_exhausted = True
                break
            one: Outcome[T, R] = Outcome(self._pulled, item)
            self._pulled += 1
            self._under_way[one.place] = one
            try:
                one.prepared = self._prepare(item)
            except UnknownVae:
                raise
            except ITS_OWN as error:
                self._fail(one, error)
            else:
                one.job_id = one.prepared.spec.id
                self._outgoing.send(one)
            if monotonic() >= end:
                break
        return self._pulled > before

    def _follow(self, one: Outcome[T, R]) -> None:
        """Wait for its end; its latents are the farm's now. On the thread that sends: the other may be long away."""
        assert one.job_id is not None
        one.prepared, one.stage = None, Stage.SUBMITTED
        one.end = self._transport.ended(one.job_id)
        one.end.add_done_callback(lambda end: self._events.put(partial(self._has_ended, one, end)))

    def _tell_failed(self, one: Outcome[T, R], error: FarmError) -> None:
        self._events.put(partial(self._fail, one, error))

    def _tell_moved(self, error: BaseException | None) -> None:
        self._events.put(partial(self._has_moved, error))

    def _has_moved(self, error: BaseException | None) -> None:
        if error is not None:
            raise error

    def _has_ended(self, one: Outcome[T, R], end: "Future[JobStatus]") -> None:
        one.end, one.stage = None, Stage.ENDED
        if (error := end.exception()) is not None:
            self._fail(one, error)

    def _collect_ahead(self) -> None:
        """Fetch what will be handed over soon."""
        if self._ordered:
            soon = islice(self._under_way.values(), COLLECTORS)
            chosen = [one for one in soon if one.stage is Stage.ENDED]
        else:
            held = sum(one.stage in (Stage.COLLECTING, Stage.DONE) for one in self._under_way.values())
            ended = (one for one in self._under_way.values() if one.stage is Stage.ENDED)
            chosen = list(islice(ended, max(0, COLLECTORS - held)))
        for one in chosen:
            one.stage = Stage.COLLECTING
            assert one.job_id is not None
            call = partial(self._collect, one.item, Job(one.job_id, self._transport))
            self._collectors.call(call).add_done_callback(partial(self._tell_collected, one))

    def _tell_collected(self, one: Outcome[T, R], future: "Future[R]") -> None:
        self._events.put(partial(self._is_collected, one, future))

    def _is_collected(self, one: Outcome[T, R], future: "Future[R]") -> None:
        if (error := future.exception()) is not None:
            self._fail(one, error)
        else:
            one.value, one.stage = future.result(), Stage.DONE

    def _fail(self, one: Outcome[T, R], error: BaseException) -> None:
        """Keep an error that is the job's own; raise any other."""
        if not isinstance(error, ITS_OWN):
            raise error
        one.error, one.prepared, one.stage = error, None, Stage.DONE

    def _next_done(self) -> Outcome[T, R] | None:
        values = iter(self._under_way.values())
        if self._ordered:
            first = next(values, None)
            return first if first is not None and first.stage is Stage.DONE else None
        return next((one for one in values if one.stage is Stage.DONE), None)

    def _forget(self, one: Outcome[T, R]) -> None:
        del self._under_way[one.place]
        if self._is_owner and one.job_id is not None:
            self._collectors.discard(one.job_id)

    def _end(self) -> None:
        """Send and wait for no more, cancel what is under way where it is this flow's, and end the threads."""
        if os.getpid() != self._pid:
            # A fork's copy: jobs and threads are its parent's.
            return
        self._collectors.stop()
        self._outgoing.stop()
        for one in self._under_way.values():
            if one.end is not None:
                one.end.cancel()
        sent = [one.job_id for one in self._under_way.values() if one.job_id is not None]
        if self._is_owner and sent:
            try:
                # All at once, so that no worker begins with the last while the first is discarded.
                self._transport.cancel_many(sent)
                for job_id in sent:
                    self._collectors.discard(job_id)
            except FarmError as error:
                logger.warning("%d jobs are left to the end of their lives: %s", len(sent), error)
        self._under_way.clear()
        self._collectors.join()
