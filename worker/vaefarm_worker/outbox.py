"""From decoded pictures to settled jobs: threads that encode, and one that stores and settles.

What is ready is settled together, so the settles of a fast device share their round trips; the outbox holds so much and
no more, and the device is given nothing while it is full.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import redis

from vaefarm_shared import leases, tracing, transitions
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.job import JobSpec, JobStatus
from vaefarm_shared.leases import Claim, How
from vaefarm_shared.previews import is_preview
from vaefarm_shared.transitions import Outcome

from .decoder import Decoded
from .encoders import Encoders
from .endings import Done, Endings, Ready, describe
from .loading import Loaded
from .patience import Abandoned
from .removals import Removals
from .station import Station

logger = logging.getLogger(__name__)

#: Jobs that one settle takes up, and bytes of pictures. For each picture more Redis copies all before it, once they
#: take megabytes; for each settle less it syncs once less.
SETTLE_JOBS: Final[int] = 64
SETTLE_BYTES: Final[int] = 4 * 1024 * 1024

#: Output pixels that may wait for encoder and store: 64 pictures of 1024 x 1024, and jobs, however small.
MOST_PIXELS: Final[int] = 64 * 1024 * 1024
MOST_JOBS: Final[int] = 256

#: Threads that write what goes outside of Redis, each of which waits for the store most of the time.
WRITERS: Final[int] = 16


class Outbox:
    """Encodes, stores and settles what it is given; nothing that one job does ends it."""

    def __init__(self, station: Station, connection: redis.Redis, blobs: BlobStore, notify: Callable[[], None]) -> None:
        """`notify` is told whenever there may be room again."""
        self._worker_name = station.name
        self._endings = Endings(station, connection, blobs)
        self._lifeline = station.lifeline
        self._sides = station.sides
        self._figures = station.figures
        self._patience = station.patience
        self._connection = connection
        self._blobs = blobs
        self._notify = notify
        self._encoders = Encoders(station.settings, station.decoder.device)
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="vaefarm-writer")
        self._removals = Removals(blobs)
        self._changed = threading.Condition()
        self._ready: deque[Ready] = deque()
        self._held: dict[str, int] = {}
        self._pixels = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._settle_all, name="vaefarm-settler", daemon=True)
        #: Returns to queues so far.
        self.returned = 0
        self.finished = 0
        self.failed = 0
        #: Pictures, or latents of encodes, of the finished jobs.
        self.pictures = 0

    def has_room(self) -> bool:
        """Whether the device may have another batch."""
        has_room = self._pixels < MOST_PIXELS and len(self._held) < MOST_JOBS
        if not has_room:
            self._encoders.note_full(len(self._held))
        return has_room

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._removals.start()

    def stop(self, seconds: float) -> bool:
        """Return whether everything is settled within `seconds`; take up nothing after that."""
        with self._changed:
            done = self._changed.wait_for(lambda: not self._held, seconds)
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(max(seconds, 1.0) if done else 1.0)
        self._encoders.stop()
        self._writers.shutdown(wait=False, cancel_futures=True)
        self._removals.stop(max(seconds, 1.0))
        return done

    def put(self, done: list[Done]) -> None:
        """Take what a batch became."""
        ready = []
        with self._changed:
            for one in done:
                self._hold(one.job.claim, weight(one.job.spec))
        for one in done:
            if isinstance(one.outcome, Decoded) and one.outcome.files:
                ready.append(self._endings.of(one))
            else:
                self._encoders.submit(self._encode, one)
        self._hand_on(ready)

    def expire(self, job: Loaded) -> None:
        """End a job whose deadline is past."""
        reason = f"its deadline of {job.spec.deadline_seconds} seconds passed before its decode"
        self._end(job.claim, JobStatus.EXPIRED, reason, job.latent_reference)

    def fail(self, claim: Claim, error: Exception) -> None:
        """End a job that no decode can take."""
        self._end(claim, JobStatus.FAILED, describe(error))

    def hand_back(self, claim: Claim, how: How, reason: str) -> None:
        """Return a job to the front of its queue."""
        with self._changed:
            self._hold(claim, 0)
        self._add([Ready(claim, how=how, reason=reason)])

    def _end(self, claim: Claim, status: JobStatus, reason: str, latent_reference: str = "") -> None:
        with self._changed:
            self._hold(claim, 0)
        outcome = Outcome(claim, status, self._worker_name, reason, untried=True)
        self._add([Ready(claim, outcome=outcome, latent_reference=latent_reference)])

    def _hold(self, claim: Claim, pixels: int) -> None:
        self._held[claim.token] = pixels
        self._pixels += pixels

    def _add(self, ready: list[Ready]) -> None:
        if ready:
            with self._changed:
                self._ready += ready
                self._changed.notify_all()

    def _hand_on(self, ready: list[Ready]) -> None:
        """What is ready goes to the settler, or first to those who write outside of Redis."""
        self._add([one for one in ready if not one.unwritten])
        for one in ready:
            if one.unwritten:
                self._writers.submit(self._write_outside, one)

    def _encode(self, done: Done) -> None:
        try:
            self._hand_on([self._endings.of(done)])
        except Exception as error:
            self._leave(done.job.claim, error)

    def _write_outside(self, ready: Ready) -> None:
        try:
            written = self._endings.write(ready)
        except Exception as error:
            self._leave(ready.claim, error)
            return
        if written.outcome is None:
            self._removals.add(written.files)
        self._add([written])

    def _leave(self, claim: Claim, error: Exception) -> None:
        """Let go of a job whose lease ends then, so that it comes back."""
        logger.warning("job %s is left to its lease: %s", claim.job_id, error, extra={"job_id": claim.job_id})
        self._let_go([claim])

    def _settle_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._stopping)
                if not self._ready:
                    return
                batch = self._take()
            try:
                self._write(batch)
            except Abandoned as error:
                logger.warning("%d jobs are left to their leases: %s", len(batch), error, extra=jobs_of(batch))
            except Exception:
                # Their leases end, and they come back: nothing that one job does ends the others.
                logger.exception("%d jobs could not be settled", len(batch), extra=jobs_of(batch))
            self._let_go([one.claim for one in batch])

    def _take(self) -> list[Ready]:
        batch: list[Ready] = []
        size = 0
        while self._ready and len(batch) < SETTLE_JOBS and (not batch or size < SETTLE_BYTES):
            batch.append(self._ready.popleft())
            size += batch[-1].size_bytes
        return batch

    def _write(self, batch: list[Ready]) -> None:
        returned = [one for one in batch if one.outcome is None]
        if returned:
            for reason in dict.fromkeys(one.reason for one in returned):
                claims = [(one.claim, one.how) for one in returned if one.reason == reason]
                self._patience.insist(partial(leases.give_back, self._connection, claims, self._worker_name, reason))
                self.returned += len(claims)
                which = jobs_of([one for one in returned if one.reason == reason])
                logger.warning("%d jobs go back to their queues: %s", len(claims), reason, extra=which)
        ended = [one for one in batch if one.outcome is not None]
        if ended:
            outcomes = [one.outcome for one in ended if one.outcome is not None]
            verdicts = self._patience.insist(partial(transitions.settle, self._connection, outcomes))
            for one, took_effect in zip(ended, verdicts, strict=True):
                self._after(one, took_effect)

    def _after(self, one: Ready, took_effect: bool) -> None:
        assert one.outcome is not None
        job_id = one.claim.job_id
        if not took_effect:
            # A preview goes with its job, whoever has it.
            level = logging.DEBUG if is_preview(job_id) else logging.WARNING
            which = {"job_id": job_id}
            logger.log(level, "job %s is no longer this worker's: what was done for it is dropped", job_id, extra=which)
            # Those in Redis went in the step that refused them.
            self._removals.add(one.files)
            return
        self._sides.forget(job_id)
        if one.latent_reference and one.outcome.status is not JobStatus.FAILED:
            self._removals.add([one.latent_reference])
        if one.outcome.status is JobStatus.FINISHED:
            self.finished += 1
            self.pictures += one.pictures
            logger.debug("job %s is finished", job_id, extra={"job_id": job_id})
        elif one.outcome.status is JobStatus.FAILED:
            self.failed += 1
            logger.warning("job %s failed: %s", job_id, one.outcome.reason, extra={"job_id": job_id})
        self._note(one)

    def _note(self, one: Ready) -> None:
        """What figures and traces keep of a job that has ended; one that was never decoded has no times."""
        assert one.outcome is not None
        now, report = time.time(), one.outcome.report
        if report is not None:
            seconds = {
                "queued": report.seconds_queued,
                "decode": report.seconds_decode,
                "encode": report.seconds_encode,
                "store": max(0.0, now - one.began - report.seconds_encode),
            }
            self._figures.note_job(report.vae, seconds)
        tracing.record(
            "vaefarm store",
            one.began or now,
            now,
            parent=one.job_trace,
            links=[one.batch_trace],
            error=one.outcome.reason or None,
            vaefarm__job_id=one.claim.job_id,
            vaefarm__status=one.outcome.status.value,
            vaefarm__worker=self._worker_name,
        )

    def _let_go(self, claims: list[Claim]) -> None:
        self._lifeline.drop(claims)
        with self._changed:
            self._pixels -= sum(self._held.pop(claim.token, 0) for claim in claims)
            self._changed.notify_all()
        self._notify()


def weight(spec: JobSpec) -> int:
    """Output pixels of a job by the memory that they take: a value of a raw tensor has two bytes."""
    return spec.pixels * 2 if spec.output_type == "pt" else spec.pixels


def jobs_of(batch: list[Ready]) -> dict[str, list[str]]:
    """What a line of the log about several jobs says besides."""
    return {"job_ids": [one.claim.job_id for one in batch]}
