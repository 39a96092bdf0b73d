"""SIGKILL before and after every change of a job's state, and every reply lost."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files

import pytest
from tests.chaos.arena import Arena, MakeArena
from tests.chaos.crew import Member
from tests.chaos.decoder import VAE
from tests.chaos.faults import Action, Fault, Moment
from tests.chaos.oracle import Verdict
from tests.chaos.sweep import AT_ONCE, sweep
from tests.conftest import eventually

from vaefarm_shared.leases import Source, Wanted, claim
from vaefarm_shared.scripts import script
from vaefarm_worker.claiming import FIRST_JOBS
from vaefarm_worker.renewer import Terms

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Jobs under way at each point of a sweep.
JOBS = 3

STEPS = ("claim", "begin", "settle")

MOMENTS = pytest.mark.parametrize("moment", ["before", "after"])


@MOMENTS
def test_a_worker_killed_at_any_change_of_a_job_loses_nothing(make_arena: MakeArena, moment: Moment) -> None:
    def is_reached(arena: Arena, at: int) -> bool:
        jobs = arena.oracle.submit(range(JOBS))
        victim = arena.crew.start("--burst", fault=Fault("kill", moment, at))
        eventually("it is killed, or done", lambda: not victim.is_alive)
        if victim.was_killed:
            arena.crew.start()
        else:
            assert victim.process.returncode == 0, victim.log
        assert arena.oracle.verdict() == Verdict(jobs=JOBS), f"killed {moment} change {at}"
        assert max(job.record().attempts for job in jobs) <= 2
        return victim.was_killed

    assert sweep(make_arena, is_reached) >= 4, "a look at the dead, claim, begin and settle at least"


def a_host_dies(arena: Arena, fault: Fault) -> None:
    """Nobody is left there to hand its jobs back: they come back when their leases end."""
    arena.oracle.submit(range(JOBS))
    victim = arena.crew.start(fault=fault)
    eventually("it is killed", lambda: victim.was_killed)
    arena.crew.start()
    assert arena.oracle.verdict() == Verdict(jobs=JOBS), fault


def test_a_host_that_dies_at_any_step_loses_nothing(make_arena: MakeArena) -> None:
    faults = [Fault("kill-host", moment, 1, only=step) for moment in ("before", "after") for step in STEPS]
    arenas = [make_arena(lease_seconds=3.0) for _ in faults]
    load_scripts(arenas[0])
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(a_host_dies, arenas, faults))


@pytest.mark.parametrize("step", STEPS)
def test_a_host_that_dies_as_redis_asks_for_the_script_of_a_step_loses_nothing(
    make_arena: MakeArena, step: str
) -> None:
    """What went with the request took effect; the step itself did not."""
    a_host_dies(make_arena(lease_seconds=3.0), Fault("kill-host", "after", 1, only=step))


@pytest.mark.parametrize("step", STEPS)
def test_jobs_of_a_dead_process_on_a_living_host_come_back_before_their_leases_end(
    make_arena: MakeArena, step: str
) -> None:
    arena = make_arena(lease_seconds=600.0)
    load_scripts(arena)
    # As many as the first claim takes. The claim's own reply tells whose they are: a second one, on its way as the
    # worker dies, would be left to its leases; and of the first the worker dies at what comes after it.
    arena.oracle.submit(range(FIRST_JOBS))
    fault = Fault("kill", "before", 1, only="begin") if step == "claim" else Fault("kill", "after", 1, only=step)
    victim = arena.crew.start(fault=fault)
    eventually("it is killed", lambda: victim.was_killed)

    arena.crew.start()

    assert arena.oracle.verdict() == Verdict(jobs=FIRST_JOBS)


@MOMENTS
def test_a_worker_whose_connection_is_cut_at_any_change_of_a_job_finishes_its_jobs(
    make_arena: MakeArena, moment: Moment
) -> None:
    """Cut before the request, or after it took effect and before its reply: the worker lives on, and ends by itself."""

    def is_reached(arena: Arena, at: int) -> bool:
        arena.oracle.submit(range(JOBS))
        fault = Fault("cut", moment, at)
        worker = arena.crew.start(fault=fault)
        assert arena.oracle.verdict() == Verdict(jobs=JOBS), f"cut {moment} change {at}"
        worker.stop()
        assert worker.process.wait(30) == 0, worker.log
        return fault.notice in worker.log

    assert sweep(make_arena, is_reached) >= 4


def load_scripts(arena: Arena) -> None:
    """Let Redis know every script, as after an hour's work."""
    for path in files("vaefarm_shared").joinpath("lua").iterdir():
        arena.connection.script_load(script(path.name.removesuffix(".lua")).text)


def has_met(worker: Member, fault: Fault) -> bool:
    return fault.notice in worker.log


@pytest.mark.parametrize("action", ["kill", "cut"])
def test_what_goes_wrong_in_the_background_loses_nothing(make_arena: MakeArena, action: Action) -> None:
    """Heartbeats and the reaper run in a thread of their own: it is met at its first commands, all that there are."""
    for at in range(1, 5):
        arena = make_arena()
        arena.oracle.submit(range(JOBS))
        fault = Fault(action, "after", at, only="all", thread="vaefarm-keeper")
        worker = arena.crew.start("--seconds", "0.2", fault=fault)
        eventually("the fault", partial(has_met, worker, fault))
        if action == "kill":
            worker.process.wait(30)
        arena.crew.tend()
        assert arena.oracle.verdict() == Verdict(jobs=JOBS), f"{action} at {at}"


def test_a_renewer_that_first_runs_after_its_worker_has_died_hands_everything_back(arena: Arena) -> None:
    """On a busy machine it may start late: all that the worker wrote before it died is in the pipe."""
    arena.oracle.submit(range(JOBS))
    source = Source(VAE, "normal", 0.0, ("s",))
    claimed = claim(arena.connection, "dead", Wanted((source,), JOBS, 1 << 30, 600.0))
    held = "".join(f"+ {one.claim.job_id} {one.claim.token}\n" for one in claimed)
    url = arena.settings.redis_url.get_secret_value()
    terms = Terms(redis_url=url, worker="dead", pid=0, lease_seconds=600.0, decode_timeout=300.0, max_attempts=20)

    subprocess.run(
        [sys.executable, "-m", "vaefarm_worker.renewer"], input=terms.line() + f"<\n{held}".encode(), check=True
    )
    arena.crew.start()

    assert arena.oracle.verdict() == Verdict(jobs=JOBS)
