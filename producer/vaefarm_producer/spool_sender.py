"""What sends a spool's jobs: one thread of a farm, in the order in which they were spooled, until none is left."""

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from vaefarm_shared.errors import (
    ConfigurationError,
    FarmError,
    FarmUnavailable,
    InvalidInput,
    JobConflict,
    JobNotFound,
    QueueFull,
    WaitTimeout,
)

from .spool import Spool
from .spool_file import SpooledJob, UnreadableJob
from .submission import PreparedJob
from .transport import Flushed

logger = logging.getLogger(__name__)

#: Seconds before another try while the farm is away: from the first to the longest.
FIRST_WAIT_SECONDS: Final[float] = 0.1
LONGEST_WAIT_SECONDS: Final[float] = 5.0

#: Seconds between two looks while another process sends, or a job could not be sent.
LOOK_SECONDS: Final[float] = 1.0

#: Seconds that a deadline which passed in the spool has left: the farm ends its job as expired.
NO_TIME_LEFT_SECONDS: Final[float] = 0.001

#: Seconds that a farm that is closed waits for what is just being sent.
CLOSE_SECONDS: Final[float] = 5.0


class SpoolSender:
    """The thread. It starts when there is something to send, and then lives as long as its farm."""

    def __init__(
        self,
        spool: Spool,
        *,
        ping: Callable[[], None],
        submit: Callable[[PreparedJob], object],
        cancel: Callable[[str], object],
        looked: Callable[[], None],
    ) -> None:
        """`ping`, `submit` and `cancel` reach the farm, or raise at once; `looked` is called after each pass."""
        self._spool = spool
        self._ping, self._submit, self._cancel, self._looked = ping, submit, cancel, looked
        #: Whether the farm did not answer when it was last asked.
        self.away = False
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._passed = threading.Condition()
        self._closing = False
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._warned: set[str] = set()
        self._sent = self._refused = 0

    def wake(self) -> None:
        """See that what is spooled is sent; while the farm is away the next try comes at its time all the same."""
        with self._lock:
            if self._pid != os.getpid():
                # A forked child has no such thread: it is a sender of its own.
                self._thread, self._pid = None, os.getpid()
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="vaefarm-spool", daemon=True)
                self._thread.start()
        if not self.away:
            self._wake.set()

    def lost(self, error: FarmError) -> None:
        """Note that the farm is away."""
        if not self.away:
            logger.warning("jobs wait in the spool %s: %s", self._spool.folder, error)
        self.away = True

    def flush(self, timeout: float | None) -> Flushed:
        """Return once the jobs that are spooled now have left the spool; what this sender did so far.

        Raises WaitTimeout.
        """
        waiting = self._spool.waiting()
        self.wake()
        # Whoever waits for it is not to wait for the time of the next try as well.
        self._wake.set()
        with self._passed:
            if not self._passed.wait_for(lambda: not any(map(self._spool.holds, waiting)), timeout):
                left = sum(map(self._spool.holds, waiting))
                raise WaitTimeout(
                    f"{left} of {len(waiting)} jobs are still in the spool {self._spool.folder}"
                    f" after {timeout} seconds; they stay there until they are sent"
                )
            return Flushed(self._sent, self._refused)

    def close(self) -> None:
        """End the thread once what is just being sent is sent; the rest stays in the spool."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self._wake.set()
        if thread is not None and self._pid == os.getpid():
            thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            seconds = self._pass()
            self._looked()
            with self._passed:
                self._passed.notify_all()
            if not self._closing:
                self._wake.wait(seconds)

    def _pass(self) -> float | None:
        """Send what there is; seconds until the next pass, None for when it is woken."""
        try:
            self._ping()
            self.away = False
            with self._spool.sending() as is_sender:
                if is_sender:
                    self._send_all()
        except QueueFull as refusal:
            self._warn("", "jobs wait in the spool %s: %s", self._spool.folder, refusal)
            return refusal.retry_after_seconds * random.uniform(1.0, 1.5)
        except (FarmUnavailable, ConfigurationError) as error:
            self.lost(error)
            self._wait_seconds = min(2 * self._wait_seconds, LONGEST_WAIT_SECONDS)
            return self._wait_seconds * random.uniform(0.5, 1.0)
        except Exception:
            # A spool whose disk fails, say: it is looked at again, and submits go on without it.
            logger.exception("the spool %s cannot be sent just now", self._spool.folder)
            return LONGEST_WAIT_SECONDS
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._warned.discard("")
        return LOOK_SECONDS if self._spool.waiting() or self._spool.canceled() else None

    def _send_all(self) -> None:
        before = self._sent
        for name in self._spool.foreign():
            self._warn(name, "%s: it is no file of a spool, and is left alone", self._spool.folder / name)
        for job_id in self._spool.waiting():
            if self._closing:
                break
            self._send(job_id)
        for job_id in self._spool.canceled():
            self._tell_cancel(job_id)
        if self._sent > before:
            logger.info("%d jobs were sent from the spool %s", self._sent - before, self._spool.folder)

    def _send(self, job_id: str) -> None:
        """Send one job, or set it aside. What keeps one from being sent keeps no other."""
        try:
            held = self._spool.read(job_id)
            self._submit(with_deadline_left(held, time.time()))
        except FileNotFoundError:
            logger.debug("job %s was canceled, or another process sent it", job_id, extra={"job_id": job_id})
            return
        except (JobConflict, UnreadableJob, InvalidInput) as error:
            self._refused += 1
            self._spool.set_aside(job_id, str(error))
            which = {"job_id": job_id}
            logger.warning("job %s is set aside in the spool %s: %s", job_id, self._spool.folder, error, extra=which)
            return
        except (QueueFull, FarmUnavailable, ConfigurationError):
            raise
        except Exception as error:
            self._warn(job_id, "job %s stays in the spool: %s", job_id, error)
            return
        self._sent += 1
        self._spool.remove(job_id)
        if self._spool.is_canceled(job_id):
            self._tell_cancel(job_id)

    def _tell_cancel(self, job_id: str) -> None:
        """Cancel a job that may have reached the farm before it was spooled, or while it was sent."""
        try:
            self._cancel(job_id)
        except JobNotFound:
            logger.debug("job %s was canceled before the farm got it", job_id, extra={"job_id": job_id})
        self._spool.forget_cancel(job_id)

    def _warn(self, name: str, message: str, *arguments: object) -> None:
        """Say a thing once of each file, or, with no name, once until all has been sent."""
        if name not in self._warned:
            self._warned.add(name)
            logger.warning(message, *arguments, extra={"job_id": name} if name else None)


def with_deadline_left(held: SpooledJob, now: float) -> PreparedJob:
    """The job with what is left of its deadline, which began to run as it was spooled; `now` in Unix seconds."""
    spec = held.job.spec
    if spec.deadline_seconds is None:
        return held.job
    left = max(NO_TIME_LEFT_SECONDS, spec.deadline_seconds - max(0.0, now - held.spooled_at))
    return PreparedJob(spec.model_copy(update={"deadline_seconds": left}), held.job.packed)
