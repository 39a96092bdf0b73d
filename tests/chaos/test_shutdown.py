"""Workers that are told to stop, and workers and producers of two versions."""

import pytest
from tests.chaos.arena import Arena
from tests.chaos.crew import Member
from tests.chaos.decoder import VAE, latents
from tests.chaos.oracle import Verdict
from tests.conftest import eventually

from vaefarm_producer import JobFailed
from vaefarm_producer.submission import PreparedJob
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
    jobs = arena.oracle.submit(range(100))
    for old in list(arena.crew.members):
        new = arena.crew.start("--seconds", "0.02")
        eventually("the new one serves", lambda new=new: serves(arena, new))
        old.stop()
        jobs += arena.oracle.submit(range(len(jobs), len(jobs) + 50))
        assert old.process.wait(60) == 0, old.log

    assert arena.oracle.verdict() == Verdict(jobs=200)
    assert {job.record().attempts for job in jobs} == {1}


@pytest.mark.parametrize("version", [JOB_VERSION - 1, JOB_VERSION + 1])
def test_a_producer_one_job_version_apart_is_told_so_and_its_neighbours_are_decoded(arena: Arena, version: int) -> None:
    arena.oracle.submit(range(5))
    prepared = arena.farm.prepare(latents(99), vae=VAE)
    other = PreparedJob(prepared.spec.model_copy(update={"version": version}), prepared.packed)
    (odd,) = arena.farm.submit_prepared([other])
    arena.oracle.submit(range(5, 10))

    worker = arena.crew.start()

    assert arena.oracle.verdict() == Verdict(jobs=10)
    with pytest.raises(JobFailed, match=f"version {version}; this worker reads version {JOB_VERSION}: run the same"):
        odd.result(timeout=30)
    assert odd.record().attempts == 0
    assert worker.is_alive
