"""The transport over Redis with a spool: what cannot be sent now is written to disk, and sent in the background."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import FarmUnavailable
from vaefarm_shared.job import JobStatus
from vaefarm_shared.records import JobRecord
from vaefarm_shared.settings import Settings

from .redis_transport import RedisTransport
from .spool import Spool
from .spool_sender import SpoolSender
from .submission import PreparedJob
from .transport import Fetched, Flushed


class SpoolingTransport(RedisTransport):
    """Jobs over Redis, or over a folder while Redis is away."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Send what an earlier process left in the folder. Raises ConfigurationError."""
        super().__init__(settings)
        # A farm that is away costs a submit one try: the spool is at hand.
        self._submit_seconds = 0.0
        self._spool = Spool(folder)
        self._waiting: dict[str, list[Future[JobStatus]]] = {}
        self._lock = threading.Lock()
        self._sender = SpoolSender(
            self._spool,
            ping=self.ping,
            submit=lambda job: RedisTransport.submit(self, [job]),
            cancel=lambda job_id: RedisTransport.cancel(self, job_id),
            looked=self._follow_sent,
        )
        if self._spool.waiting() or self._spool.canceled():
            self._sender.wake()

    def contract(self, vae: str) -> Contract:
        """As without a spool; the catalogue's while Redis is away."""
        if not self._sender.away:
            try:
                return super().contract(vae)
            except FarmUnavailable as error:
                self._lost(error)
        read = self._contracts.get(vae)
        return read[1] if read is not None else self._catalogue_contract(vae)

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        """Put jobs on their queues, or into the spool while Redis is away: then they are 'spooled'.

        Raises:
            JobConflict, QueueFull, InvalidOption: as without a spool; what a farm refuses is not spooled.
            FarmUnavailable: Redis is away, and the disk takes no more.
        """
        for job in jobs:
            self._check_result(job.spec)
            self._spool.check_conflict(job.spec)
            # What is remembered of an earlier job of that id must not meet this one.
            self._spool.forget_cancel(job.spec.id)
            self._spool.forget_refusal(job.spec.id)
        if not self._sender.away:
            try:
                return super().submit(jobs)
            except FarmUnavailable as error:
                self._lost(error)
        self._spool.put(jobs)
        self._sender.wake()
        return [JobStatus.SPOOLED] * len(jobs)

    def _lost(self, error: FarmUnavailable) -> None:
        self._sender.lost(error)
        # It asks again and again until the farm answers, also where nothing is spooled yet.
        self._sender.wake()

    def spooled(self) -> int:
        """How many jobs are on their way, of this process and of others."""
        return len(self._spool.waiting())

    def flush(self, timeout: float | None = None) -> Flushed:
        """Return once the jobs that are spooled now have left the spool."""
        return self._sender.flush(timeout)

    def status(self, job_id: str) -> JobStatus:
        """A job's status, the spool asked first: a job leaves it only once Redis has it."""
        return self._status_here(job_id) or super().status(job_id)

    def statuses(self, job_ids: Sequence[str]) -> list[JobStatus | None]:
        """As `status` of each; None where nobody knows it."""
        here = [self._status_here(job_id) for job_id in job_ids]
        return [one or other for one, other in zip(here, super().statuses(job_ids), strict=True)]

    def record(self, job_id: str) -> JobRecord:
        """A job's record; of one in the spool, what the spool knows."""
        status = self._status_here(job_id)
        if status is None:
            return super().record(job_id)
        spec, reason = self._spool.spec(job_id), self._spool.refusal(job_id)
        return JobRecord(
            id=job_id,
            status=status,
            reason=f"it was not sent: {reason}" if status is JobStatus.FAILED else None,
            vae=spec.vae if spec else None,
            metadata=spec.metadata if spec else {},
        )

    def fetch_many(self, job_ids: Sequence[str]) -> list[Fetched | None]:
        """As without a spool."""
        found = super().fetch_many(job_ids)
        return [one if self._status_here(job_id) is None else None for job_id, one in zip(job_ids, found, strict=False)]

    def _status_here(self, job_id: str) -> JobStatus | None:
        if self._spool.holds(job_id):
            return JobStatus.SPOOLED
        if self._spool.is_canceled(job_id):
            return JobStatus.CANCELED
        return None if self._spool.refusal(job_id) is None else JobStatus.FAILED

    def ended(self, job_id: str) -> "Future[JobStatus]":
        """A future of the job's final status, which waits through the spool."""
        if self._status_here(job_id) is None:
            return super().ended(job_id)
        future: Future[JobStatus] = Future()
        with self._lock:
            self._waiting.setdefault(job_id, []).append(future)
        self._sender.wake()
        # It may have left the spool between the look and the entry.
        self._follow_sent()
        return future

    def _follow_sent(self) -> None:
        """Hand the futures of jobs that have left the spool on to the watcher."""
        with self._lock:
            gone = {
                job_id: self._waiting.pop(job_id) for job_id in list(self._waiting) if not self._spool.holds(job_id)
            }
        for job_id, futures in gone.items():
            status = self._status_here(job_id)
            for future in futures:
                if status is None:
                    follow(super().ended(job_id), future)
                elif future.set_running_or_notify_cancel():
                    future.set_result(status)

    def cancel(self, job_id: str) -> bool:
        """End a job that has not ended; one in the spool is never sent."""
        status = self._cancel_here(job_id)
        return super().cancel(job_id) if status is None else status is JobStatus.CANCELED

    def cancel_many(self, job_ids: Sequence[str]) -> list[JobStatus | None]:
        """As `cancel`, in few round trips."""
        here = {job_id: self._cancel_here(job_id) for job_id in job_ids}
        others = [job_id for job_id in job_ids if here[job_id] is None]
        there = dict(zip(others, super().cancel_many(others), strict=True))
        return [here[job_id] or there[job_id] for job_id in job_ids]

    def _cancel_here(self, job_id: str) -> JobStatus | None:
        """Take a job off its way; how it stands then, None where the spool knows nothing of it."""
        if not self._spool.cancel(job_id):
            return self._status_here(job_id)
        self._follow_sent()
        self._sender.wake()
        return JobStatus.CANCELED

    def discard(self, job_id: str) -> None:
        """Remove a job's pictures and record; of one in the spool, its place there."""
        if self._cancel_here(job_id) is None:
            super().discard(job_id)
        else:
            self._spool.forget_refusal(job_id)

    def close(self) -> None:
        """Close; what is still spooled stays there for the next farm."""
        self._sender.close()
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                future.cancel()
        super().close()


def follow(source: "Future[JobStatus]", target: "Future[JobStatus]") -> None:
    """Give a future the end of another; one that is canceled ends the other's wait too."""

    def pass_on(ended: "Future[JobStatus]") -> None:
        if ended.cancelled():
            target.cancel()
        elif target.set_running_or_notify_cancel():
            error = ended.exception()
            if error is None:
                target.set_result(ended.result())
            else:
                target.set_exception(error)

    source.add_done_callback(pass_on)
    target.add_done_callback(lambda done: source.cancel() if done.cancelled() else None)
