"""Latents that do harm, devices at fault: what one job does costs no other, what a device does costs none."""

from collections.abc import Callable

import pytest
from tests.chaos.arena import Arena, MakeArena
from tests.chaos.decoder import Poison
from tests.chaos.oracle import Verdict
from tests.conftest import eventually

from vaefarm_shared import quarantine
from vaefarm_shared.job import JobStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: Jobs submitted before and after the poisonous one.
NEIGHBOURS = 6


def tended(arena: Arena, *arguments: str, size: int = 1) -> Callable[[], bool]:
    """Whether every job has ended; dead workers are started again at each look."""

    def look() -> bool:
        arena.crew.tend(*arguments, size=size)
        return not arena.oracle.unended()

    return look


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (Poison.RAISES, "this latent cannot be decoded"),
        (Poison.NOT_FINITE, "NaN"),
        (Poison.EXITS, "went silent|ended its worker|died"),
        (Poison.HANGS, "hung|went silent|ended its worker|died"),
        (Poison.HANGS_WITH_THE_GIL, "hung|went silent|ended its worker|died"),
    ],
    ids=["raises", "not-finite", "exits", "hangs", "hangs-with-the-gil"],
)
def test_a_poisonous_latent_fails_for_its_reason_and_its_neighbours_are_unharmed(
    make_arena: MakeArena, poison: Poison, reason: str
) -> None:
    arena = make_arena(max_attempts=2, decode_timeout=1.0)
    before = arena.oracle.submit(range(NEIGHBOURS))
    bad = arena.oracle.submit([99], poison=poison, reason=reason)
    after = arena.oracle.submit(range(NEIGHBOURS, 2 * NEIGHBOURS))

    eventually("every job has ended", tended(arena), 90)

    assert arena.oracle.verdict() == Verdict(jobs=2 * NEIGHBOURS + 1)
    assert {job.record().attempts for job in before + after} == {1}, "no neighbour paid for it"
    assert bad[0].record().attempts <= 2


def test_a_job_that_failed_keeps_its_latent_so_that_it_can_be_tried_again(make_arena: MakeArena) -> None:
    arena = make_arena(max_attempts=1)
    bad = arena.oracle.submit([1], poison=Poison.RAISES, reason="cannot be decoded")[0]
    good = arena.oracle.submit([2])[0]

    eventually("both have ended", tended(arena))

    kept = [key.decode() for key in arena.connection.scan_iter("vaefarm:latent:*")]
    assert [bad.id in name for name in kept] == [True], "the failed one's alone"
    assert 0 < arena.connection.ttl(kept[0]) <= arena.connection.ttl(f"vaefarm:job:{bad.id}")
    assert good.status() is JobStatus.FINISHED


def test_a_device_that_fails_every_call_until_its_process_restarts_fails_no_job(arena: Arena) -> None:
    arena.crew.start("--faulty-after", "3", "--seconds", "0.01")
    jobs = arena.oracle.submit(range(200))

    eventually("every job has ended", tended(arena, "--seconds", "0.01"), 120)

    assert arena.oracle.verdict() == Verdict(jobs=200)
    assert {job.record().attempts for job in jobs} == {1}, "what the device did cost no attempt"
    assert not arena.crew.members[0].is_alive, "the process at fault has ended"


def test_a_device_that_fails_for_ever_fails_no_job_while_another_is_well(arena: Arena) -> None:
    arena.crew.start("--seconds", "0.02", env={"CHAOS_DEVICE": "well"})
    broken = {"CHAOS_DEVICE": "broken"}
    starts = 0

    def look() -> bool:
        nonlocal starts
        if not any(member.is_alive for member in arena.crew.members[1:]) and starts < 6:
            arena.crew.start("--faulty-after", "0", env=broken)
            starts += 1
        return not arena.oracle.unended()

    jobs = arena.oracle.submit(range(200))
    eventually("every job has ended", look, 120)

    assert arena.oracle.verdict() == Verdict(jobs=200)
    assert {job.record().attempts for job in jobs} == {1}


def test_a_device_that_fails_again_and_again_is_quarantined_whatever_its_workers_are_called(arena: Arena) -> None:
    """A supervisor starts them under one name."""
    arena.oracle.submit(range(3))
    for _ in range(quarantine.EXITS):
        worker = arena.crew.start("--faulty-after", "0", name="steady", env={"CHAOS_DEVICE": "broken"})
        assert worker.process.wait(30) == 1, worker.log
        assert "at fault" in worker.log.splitlines()[-1]

    assert quarantine.is_quarantined(arena.connection, "chaos-broken")

    idle = arena.crew.start("--faulty-after", "0", name="steady", env={"CHAOS_DEVICE": "broken"})
    eventually("it says so", lambda: "is quarantined" in idle.log)
    arena.crew.start()
    assert arena.oracle.verdict() == Verdict(jobs=3)
    assert idle.is_alive, "it waits to be released"


def test_a_device_with_room_for_three_pictures_decodes_any_number(arena: Arena) -> None:
    arena.crew.start("--memory-pixels", str(3 * 64 * 64))

    jobs = arena.oracle.submit(range(20))

    assert arena.oracle.verdict() == Verdict(jobs=20)
    assert {job.record().attempts for job in jobs} == {1}
