"""Workers that are told to stop, and workers and producers of two versions."""

from functools import partial

import pytest
from tests.chaos.arena import Arena
from tests.chaos.crew import Member
from tests.chaos.faults import Fault
from tests.chaos.oracle import Verdict
from tests.conftest import eventually

from vaefarm_shared import keys
from vaefarm_shared.job import JOB_VERSION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def serves(arena: Arena, member: Member) -> bool:
    return bool(arena.connection.exists(f"vaefarm:worker:{member.name}"))


def test_sigterm_under_load_ends_a_worker_with_0_and_costs_no_attempt(arena: Arena) -> None:
    jobs = arena.oracle.submit(range(200))
    first = arena.crew.start("--seconds", "0.05")
    eventually("it works", lambda: len(arena.oracle.unended()) < 180)

    first.stop()
    assert first.process.wait(60) == 0, first.log
    left = arena.oracle.unended()
    assert left, "it was under load"
    assert {arena.farm.job(one).status().value for one in left} == {"queued"}, "what it had not begun is queued again"
    assert not arena.connection.exists("vaefarm:leases")
    arena.crew.start()

    assert arena.oracle.verdict() == Verdict(jobs=200)
    assert {job.record().attempts for job in jobs} == {1}


def test_a_rolling_restart_of_two_workers_under_load_loses_nothing(arena: Arena) -> None:
    arena.crew.tend("--seconds", "0.02", size=2)
    for first in arena.crew.members:
        eventually("the first ones serve", partial(serves, arena, first))
    jobs = arena.oracle.submit(range(100))
    for old in list(arena.crew.members):
        new = arena.crew.start("--seconds", "0.02")
        eventually("the new one serves", partial(serves, arena, new))
        old.stop()
        jobs += arena.oracle.submit(range(len(jobs), len(jobs) + 50))
        assert old.process.wait(60) == 0, old.log

    assert arena.oracle.verdict() == Verdict(jobs=200)
    assert {job.record().attempts for job in jobs} == {1}


def test_a_worker_that_was_killed_starts_again_under_its_name(arena: Arena) -> None:
    arena.oracle.submit(range(3))
    first = arena.crew.start(name="steady", fault=Fault("kill", "after", 1, only="begin"))
    eventually("it is killed", lambda: first.was_killed)

    def look() -> bool:
        if not any(member.is_alive for member in arena.crew.members):
            arena.crew.start(name="steady")
        return not arena.oracle.unended()

    eventually("another of its name has done its work", look)
    assert arena.oracle.verdict() == Verdict(jobs=3)


@pytest.mark.parametrize("version", [JOB_VERSION + 1])
def test_a_job_of_another_version_waits_for_a_worker_that_reads_it_and_its_neighbours_are_decoded(
    arena: Arena, version: int
) -> None:
    """As in a rolling upgrade, from whichever side it begins."""
    arena.oracle.submit(range(5))
    (odd,) = arena.oracle.submit([99], version=version)
    arena.oracle.submit(range(5, 10))
    arena.crew.start()
    eventually("its neighbours have ended", lambda: arena.oracle.unended() == [odd.id])
    eventually("it was handed back", lambda: odd.status() == "queued" and not arena.connection.exists("vaefarm:leases"))
    why = arena.connection.hget(keys.job(odd.id), "last_error") or b""
    assert f"version {version}; this worker reads versions up to {JOB_VERSION}: run the same".encode() in why

    other = arena.crew.start("--job-version", str(version))

    assert arena.oracle.verdict() == Verdict(jobs=11)
    assert (odd.record().worker, odd.record().attempts) == (other.name, 1)
