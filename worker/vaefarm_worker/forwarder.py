"""The forwarder: a thread that gives endpoints as many jobs as they have slots for, and the outbox what comes of them.

A job begins as it does on the device, but shares: should this process die, no job that it had forwarded is to blame.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import redis

from vaefarm_shared import leases, tracing
from vaefarm_shared.leases import Claim

from .decoder import Decoded
from .device import begin, ids_of
from .endings import Done
from .loading import Loaded
from .outbox import Outbox
from .patience import Abandoned
from .pool import Pool
from .remote.remote_decoder import RemoteDecoder
from .station import Station

logger = logging.getLogger(__name__)

#: Seconds between two looks of a forwarder that nobody wakes.
LOOK_SECONDS: Final[float] = 0.5


class Forwarder:
    """Takes jobs from the pool one by one; many are out at a time."""

    def __init__(
        self, station: Station, remote: RemoteDecoder, pool: Pool, outbox: Outbox, connection: redis.Redis
    ) -> None:
        self._station = station
        self._remote = remote
        self._pool = pool
        self._outbox = outbox
        self._connection = connection
        #: What is out by its claim's token, with what ends its requests; and what of that nobody wants any more.
        self._out: dict[str, tuple[Claim, Callable[[], None]]] = {}
        self._unwanted: set[str] = set()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vaefarm-forwarder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Forward no more; return whether what is out has come back within `seconds`. The rest is given back."""
        self._stopping.set()
        self._pool.notify()
        deadline = time.monotonic() + seconds
        self._thread.join(seconds)
        with self._changed:
            done = self._changed.wait_for(lambda: not self._out, max(0.0, deadline - time.monotonic()))
        self._remote.close()
        return done and not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            jobs: list[Loaded] = []
            try:
                jobs = self._next_jobs()
                self._forward(jobs)
            except Abandoned as error:
                logger.warning("%d jobs are left to their leases: %s", len(jobs), error, extra=ids_of(jobs))
                return
            except Exception:
                # Their leases end, and they come back. A thread that ended would leave a worker which forwards nothing.
                logger.exception("%d jobs could not be forwarded", len(jobs), extra=ids_of(jobs))
                self._station.lifeline.drop([one.claim for one in jobs])
                self._stopping.wait(LOOK_SECONDS)

    def _next_jobs(self) -> list[Loaded]:
        """Wait until there are jobs that endpoints have room for; none when the worker stops."""
        changed = self._pool.changed
        with changed:
            while not self._stopping.is_set():
                for one, error in self._pool.take_unloadable():
                    self._outbox.put([Done(one, 0, error, 0.0, 1)])
                if self._outbox.has_room() and (jobs := self._pool.take_forwarded()):
                    return jobs
                if self._out:
                    # Endpoints may take longer than a device: the worker does not hang.
                    self._remote.call(self._station.lifeline.moves)
                changed.wait(LOOK_SECONDS)
        return []

    def _forward(self, jobs: list[Loaded]) -> None:
        if not jobs:
            return
        for one, attempt in begin(self._station, self._connection, self._outbox, jobs, shared=True):
            token = one.claim.token
            with self._changed:
                self._out[token] = (one.claim, lambda: None)
            end = self._remote.start(one.item, partial(self._on_done, one, attempt, time.time()))
            with self._changed:
                if token in self._out:
                    self._out[token] = (one.claim, end)

    def end_unwanted(self, connection: redis.Redis) -> None:
        """End the requests of jobs that were canceled meanwhile, or went to another: their slots are others'.

        Raises what redis-py raises.
        """
        with self._changed:
            out = [claim for claim, _ in self._out.values()]
        tokens = {claim.token for claim in leases.lost(connection, out)}
        with self._changed:
            gone = {token: self._out[token] for token in tokens if token in self._out}
            self._unwanted |= gone.keys()
        for claim, end in gone.values():
            job_id = claim.job_id
            logger.info("job %s was canceled or went to another: no longer asked for", job_id, extra={"job_id": job_id})
            end()

    def _on_done(self, job: Loaded, attempt: int, began: float, outcome: Decoded | Exception, seconds: float) -> None:
        """What an endpoint gave goes to the outbox; on the remote decoder's own thread."""
        spec = job.spec
        # Of requests that run side by side each takes its share of the worker's time, as jobs of a batch do.
        share = seconds / max(1, self._remote.slots(spec.vae))
        local = self._station.sides.local
        if isinstance(outcome, Decoded) and (local is None or spec.vae not in local.vaes):
            self._station.cost.note(spec.vae, spec.pixels, share)
        tracing.record(
            "vaefarm forward",
            began,
            time.time(),
            parent=spec.traceparent,
            error=str(outcome) if isinstance(outcome, Exception) else None,
            vaefarm__job_id=spec.id,
            vaefarm__vae=spec.vae,
            vaefarm__worker=self._station.name,
        )
        token = job.claim.token
        with self._changed:
            is_wanted = token not in self._unwanted
        if is_wanted:
            self._outbox.put([Done(job, attempt, outcome, seconds, 1, charged_seconds=share)])
        else:
            self._station.lifeline.drop([job.claim])
        with self._changed:
            self._out.pop(token, None)
            self._unwanted.discard(token)
            self._changed.notify_all()
