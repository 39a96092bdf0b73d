"""The device's two threads: one binds batches, one decodes them and does nothing else.

A batch is bound as late as may be: when the device is free or about to be, so that jobs which come meanwhile join it.
Binding writes that the decode begins, and drops what was canceled or is too late. A single job is bound when the device
is free and not before: should the process die, Redis tells whether that job was alone on the device.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import redis

from vaefarm_shared import tracing, transitions
from vaefarm_shared.errors import DeviceFault

from . import ladder
from .busy import Busy
from .decoder import Batch, BatchItem
from .endings import Done
from .loading import Loaded
from .outbox import Outbox
from .patience import Abandoned
from .pool import Pool
from .station import Station

logger = logging.getLogger(__name__)

#: How many times its estimate a decode may take before it counts as hung.
HUNG_TIMES: Final[float] = 20.0

#: Seconds by which a bind comes before the device is free, above what a bind takes.
LEAD_SECONDS: Final[float] = 0.001

#: Seconds between two looks of a binder that nobody wakes.
LOOK_SECONDS: Final[float] = 0.5


@dataclass(frozen=True, slots=True)
class Bound:
    """A batch whose jobs have begun: each with the number of its attempt."""

    jobs: tuple[Loaded, ...]
    attempts: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """Output pixels of all its jobs."""
        return sum(one.spec.pixels for one in self.jobs)

    @property
    def vae(self) -> str:
        """The VAE of all its jobs."""
        return self.jobs[0].spec.vae


class Device:
    """Takes batches from the pool, gives what became of them to the outbox."""

    def __init__(
        self,
        station: Station,
        pool: Pool,
        outbox: Outbox,
        connection: redis.Redis,
        on_fault: Callable[[DeviceFault], None],
    ) -> None:
        """`on_fault` is told when the device is at fault; nothing is decoded after that."""
        self._station = station
        self._pool = pool
        self._outbox = outbox
        self._connection = connection
        self._on_fault = on_fault
        self._lost = False
        pool.bound_seconds = self.bound_seconds
        self._slot: queue.SimpleQueue[Bound | None] = queue.SimpleQueue()
        self._bound: list[Bound] = []
        #: Taken from the pool, while Redis is told that they begin.
        self._binding: list[Loaded] = []
        self._free_at = float("inf")
        self._bind_seconds = 0.0
        self._stopping = threading.Event()
        self._binder = threading.Thread(target=self._guard, args=(self._bind,), name="vaefarm-binder", daemon=True)
        self._thread = threading.Thread(target=self._guard, args=(self._decode,), name="vaefarm-device", daemon=True)
        #: How long it has decoded, and what it decodes now.
        self.busy = Busy()

    def start(self) -> None:
        """Begin."""
        self._binder.start()
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Bind no more; return whether what was bound is decoded within `seconds`."""
        self._stopping.set()
        if self._binder.ident is None:
            # There was no device to begin with.
            return True
        self._pool.notify()
        deadline = time.monotonic() + seconds
        self._binder.join(seconds)
        self._slot.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not (self._binder.is_alive() or self._thread.is_alive())

    def bound_seconds(self) -> float | None:
        """Seconds that what is bound, or about to be, still takes, as far as one can tell; None where nothing is."""
        with self._pool.changed:
            if not self._bound and not self._binding:
                return None
            about = sum(self._station.cost.seconds(one.spec.vae, one.spec.pixels) for one in self._binding)
            if not self._bound:
                return about
            seconds = [self._station.cost.seconds(one.vae, one.pixels) for one in self._bound]
            begun = self._free_at - time.monotonic()
            first = min(seconds[0], max(0.0, begun)) if begun < float("inf") else seconds[0]
            return first + sum(seconds[1:]) + about

    def abandon(self) -> None:
        """The device is lost: bind no more, and give back what was bound. From any of its threads."""
        with self._pool.changed:
            self._lost, bound = True, list(self._bound)
            self._bound.clear()
        self._stopping.set()
        self._slot.put(None)
        # Nothing is on it any more that could take too long: the worker must not be ended for that.
        self._station.lifeline.idle()
        for one in bound:
            self._return(one)

    def _return(self, bound: Bound) -> None:
        for one in bound.jobs:
            self._outbox.hand_back(one.claim, "free", "the device is at fault")

    def _guard(self, run: Callable[[], None]) -> None:
        """A thread that ends by an error would leave a worker which claims and decodes nothing."""
        try:
            run()
        except DeviceFault as fault:
            self._on_fault(fault)
        except Exception as error:
            logger.exception("the device's thread broke")
            self._on_fault(DeviceFault(f"the decoder broke: {error}"))

    def _bind(self) -> None:
        while (jobs := self._next_jobs()) is not None:
            try:
                bound = self._begin(jobs)
            except Abandoned as error:
                logger.warning("%d jobs are left to their leases: %s", len(jobs), error, extra=ids_of(jobs))
                return
            except Exception:
                # Their leases end, and they come back.
                logger.exception("%d jobs could not begin", len(jobs), extra=ids_of(jobs))
                self._station.lifeline.drop([one.claim for one in jobs])
                self._binding = []
                continue
            with self._pool.changed:
                self._binding = []
                if bound.jobs and not self._lost:
                    self._bound.append(bound)
                    self._slot.put(bound)
                    continue
            self._return(bound)

    def _next_jobs(self) -> list[Loaded] | None:
        """Wait until a batch is to be bound; None when the device stops."""
        changed = self._pool.changed
        with changed:
            while not self._stopping.is_set():
                for one, error in self._pool.take_unloadable():
                    self._outbox.put([Done(one, 0, error, 0.0, 1)])
                if self._may_bind() and (jobs := self._pool.take()):
                    self._binding = jobs
                    return jobs
                if not self._bound and self._pool.waits_for_loads():
                    # A load may take as long as a download does: the worker does not hang.
                    self._station.lifeline.idle()
                changed.wait(self._wait_seconds())
        return None

    def _may_bind(self) -> bool:
        if not self._outbox.has_room():
            return False
        if not self._bound:
            return True
        return len(self._bound) == 1 and self._is_nearly_free() and not self._pool.next_is_single()

    def _is_nearly_free(self) -> bool:
        return time.monotonic() >= self._free_at - 2 * self._bind_seconds - LEAD_SECONDS

    def _wait_seconds(self) -> float:
        now = time.monotonic()
        moment = self._free_at - 2 * self._bind_seconds - LEAD_SECONDS if self._bound else self._pool.due()
        # What is past waits for something else, which wakes the binder when it happens.
        return LOOK_SECONDS if moment is None or moment <= now else min(max(moment - now, 1e-4), LOOK_SECONDS)

    def _begin(self, jobs: list[Loaded]) -> Bound:
        """Write that they begin; drop those that were canceled, went to another or are too late."""
        began = time.monotonic()
        if jobs[0].begun is not None:
            # With its claim, and so alone.
            return Bound(tuple(jobs), (jobs[0].begun,))
        kept = begin(self._station, self._connection, self._outbox, jobs, shared=len(jobs) > 1)
        self._bind_seconds += 0.2 * (time.monotonic() - began - self._bind_seconds)
        return Bound(tuple(one for one, _ in kept), tuple(attempt for _, attempt in kept))

    def _decode(self) -> None:
        # What was bound when the device was lost has been given back.
        while (bound := self._slot.get()) is not None and not self._lost:
            began = time.monotonic()
            estimate = self._station.cost.seconds(bound.vae, bound.pixels)
            self._free_at = began + estimate if self._station.cost.is_known(bound.vae) else float("inf")
            allowed = max(self._station.settings.decode_timeout, HUNG_TIMES * estimate)
            with self.busy.decoding([one.spec for one in bound.jobs]), self._span(bound) as traced:
                outcomes = ladder.decode(
                    self._station.decoder,
                    Batch(tuple(one.item for one in bound.jobs)),
                    lambda items, allowed=allowed: self._tell(items, allowed),  # type: ignore[misc]
                    tiling=self._station.settings.tiling,
                )
            seconds = time.monotonic() - began
            self._station.lifeline.idle()
            self._station.cost.note(bound.vae, bound.pixels, seconds)
            self._station.figures.note_batch(bound.vae, len(bound.jobs))
            which = ids_of(bound.jobs)
            logger.info("%d jobs of %s decoded in %.3f s", len(bound.jobs), bound.vae, seconds, extra=which)
            self._outbox.put(self._done(bound, outcomes, seconds, tracing.traceparent_of(traced)))
            with self._pool.changed:
                if bound in self._bound:
                    self._bound.remove(bound)
                self._free_at = float("inf")
                self._pool.changed.notify_all()

    def _tell(self, items: Sequence[BatchItem], allowed_seconds: float) -> None:
        self._station.lifeline.on_device((item.spec.id for item in items), allowed_seconds)

    def _span(self, bound: Bound) -> AbstractContextManager[Any]:
        """A batch has as many parents as jobs: its span is of a trace of its own, and links to theirs."""
        return tracing.span(
            "vaefarm decode",
            "consumer",
            links=[one.spec.traceparent for one in bound.jobs],
            vaefarm__vae=bound.vae,
            vaefarm__pixels=bound.pixels,
            vaefarm__worker=self._station.name,
            messaging__batch__message_count=len(bound.jobs),
        )

    @staticmethod
    def _done(bound: Bound, outcomes: list[ladder.Outcome], seconds: float, trace: str | None) -> list[Done]:
        pixels = bound.pixels
        return [
            Done(one, attempt, outcome, seconds * one.spec.pixels / pixels, len(bound.jobs), trace)
            for one, attempt, outcome in zip(bound.jobs, bound.attempts, outcomes, strict=True)
        ]


def begin(
    station: Station, connection: redis.Redis, outbox: Outbox, jobs: Sequence[Loaded], *, shared: bool
) -> list[tuple[Loaded, int]]:
    """Write that jobs begin; those that still are this worker's and in time, each with the number of its attempt.

    Raises:
        Abandoned: the worker stops, and Redis is away.
    """
    claims = [(one.claim, one.spec.deadline_seconds) for one in jobs]
    write = partial(transitions.begin, connection, claims, station.name, shared=shared)
    kept: list[tuple[Loaded, int]] = []
    for one, verdict in zip(jobs, station.patience.insist(write), strict=True):
        if isinstance(verdict, int):
            kept.append((one, verdict))
        elif verdict == transitions.EXPIRED:
            outbox.expire(one)
        else:
            job_id = one.claim.job_id
            logger.info("job %s was canceled or went to another: dropped", job_id, extra={"job_id": job_id})
            station.lifeline.drop([one.claim])
    return kept


def ids_of(jobs: Sequence[Loaded]) -> dict[str, list[str]]:
    """What a line of the log about several jobs says besides."""
    return {"job_ids": [one.claim.job_id for one in jobs]}
