"""A job is canceled, or its deadline passes, at each boundary of a worker's work."""

import signal
import time

import pytest
from tests.chaos.arena import Arena, MakeArena
from tests.chaos.faults import Fault
from tests.chaos.oracle import Verdict
from tests.chaos.sweep import sweep
from tests.conftest import eventually

from vaefarm_shared.job import JobStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Seconds within which the decode must begin.
DEADLINE = 0.5


def test_a_job_canceled_at_any_boundary_never_ends_finished(make_arena: MakeArena) -> None:
    """The worker stands still while the job is canceled, and goes on: canceled stays canceled, finished finished."""
    ended = set()

    def is_reached(arena: Arena, at: int) -> bool:
        one, other = arena.oracle.submit(range(2), ends=(JobStatus.CANCELED, JobStatus.FINISHED))
        worker = arena.crew.start("--burst", fault=Fault("stop", "before", at))
        eventually("it stands still, or is done", lambda: worker.is_stopped or not worker.is_alive)
        stood, was_canceled = worker.is_alive, one.cancel()
        worker.signal(signal.SIGCONT)
        assert worker.process.wait(60) == 0, worker.log
        arena.crew.tend()
        assert arena.oracle.verdict() == Verdict(jobs=2), f"canceled at {at}"
        assert other.status() is JobStatus.FINISHED, "its neighbour is not touched"
        assert one.status() is (JobStatus.CANCELED if was_canceled else JobStatus.FINISHED), f"canceled at {at}"
        ended.add(one.status())
        return stood

    assert sweep(make_arena, is_reached) >= 4
    assert ended == {JobStatus.CANCELED, JobStatus.FINISHED}


def test_a_deadline_that_passes_at_any_boundary_ends_the_job_expired_or_finished_and_nothing_else(
    make_arena: MakeArena,
) -> None:
    ended = set()

    def is_reached(arena: Arena, at: int) -> bool:
        ends = (JobStatus.EXPIRED, JobStatus.FINISHED)
        (job,) = arena.oracle.submit([1], ends=ends, deadline_seconds=DEADLINE)
        submitted = time.monotonic()
        worker = arena.crew.start("--burst", fault=Fault("stop", "before", at))
        eventually("it stands still, or is done", lambda: worker.is_stopped or not worker.is_alive)
        stood = worker.is_alive
        eventually("the deadline is past", lambda: time.monotonic() > submitted + DEADLINE)
        worker.signal(signal.SIGCONT)
        assert worker.process.wait(60) == 0, worker.log
        arena.crew.tend()
        assert arena.oracle.verdict() == Verdict(jobs=1), f"deadline at {at}"
        record = job.record()
        if record.status is JobStatus.EXPIRED:
            assert "deadline" in (record.reason or "")
            assert record.attempts == 0, "the device never took it"
        ended.add(record.status)
        return stood

    assert sweep(make_arena, is_reached) >= 4
    assert JobStatus.EXPIRED in ended
