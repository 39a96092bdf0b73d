"""SIGSTOP past the lease, then SIGCONT: a worker that slept changes nothing."""

import signal

import pytest
from tests.chaos.arena import Arena, MakeArena
from tests.chaos.faults import Fault, Moment
from tests.chaos.oracle import Verdict
from tests.chaos.sweep import sweep
from tests.conftest import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def wakes_to_nothing(arena: Arena, fault: Fault) -> bool:
    """Let a worker sleep at its fault until another has finished its jobs, then wake it; False when it never slept."""
    jobs = arena.oracle.submit(range(2))
    sleeper = arena.crew.start("--burst", fault=fault)
    eventually("it sleeps, or is done", lambda: sleeper.is_stopped or not sleeper.is_alive)
    slept = sleeper.is_alive
    if slept:
        arena.crew.start()
        assert arena.oracle.verdict() == Verdict(jobs=2), f"before it wakes: {fault}"
    before = arena.jobs_state()
    sleeper.signal(signal.SIGCONT)

    assert sleeper.process.wait(60) == 0, sleeper.log
    assert arena.oracle.verdict() == Verdict(jobs=2), f"{fault}"
    assert arena.jobs_state() == before, f"it changed something: {fault}"
    assert max(job.record().attempts for job in jobs) <= 2
    return slept


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_that_slept_past_its_lease_at_any_change_of_a_job_changes_nothing(
    make_arena: MakeArena, moment: Moment
) -> None:
    def is_reached(arena: Arena, at: int) -> bool:
        return wakes_to_nothing(arena, Fault("stop", moment, at))

    assert sweep(make_arena, is_reached) >= 4


def test_a_worker_that_slept_between_claim_and_begin_until_another_had_finished_changes_nothing(arena: Arena) -> None:
    assert wakes_to_nothing(arena, Fault("stop", "before", 1, only="begin"))


def test_workers_whose_clocks_differ_leave_each_others_jobs_alone(make_arena: MakeArena) -> None:
    """Decodes last longer than a lease: a reaper by its own clock would take them for dead."""
    arena = make_arena(lease_seconds=2.0)
    for ahead in ("120", "-120", "0"):
        arena.crew.start("--clock-ahead", ahead, "--seconds", "4")

    jobs = arena.oracle.submit(range(3))

    assert arena.oracle.verdict() == Verdict(jobs=3)
    assert [job.record().attempts for job in jobs] == [1, 1, 1]


def test_the_dead_are_found_by_a_worker_whose_clock_is_behind(arena: Arena) -> None:
    arena.oracle.submit(range(4))
    ahead = arena.crew.start("--clock-ahead", "120", fault=Fault("kill-host", "after", 1, only="begin"))
    eventually("it is killed", lambda: ahead.was_killed)

    arena.crew.start("--clock-ahead", "-120")

    assert arena.oracle.verdict() == Verdict(jobs=4)
