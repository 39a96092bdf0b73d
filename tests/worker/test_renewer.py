"""The process beside a worker: it renews, notices who hangs or is dead, and knows what each job owes for that."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import torch
from tests.claims import begin, take
from tests.conftest import eventually

from vaefarm_producer import Farm, JobFailed
from vaefarm_shared import device_locks, keys
from vaefarm_shared.device_locks import DeviceHold
from vaefarm_shared.leases import Claim
from vaefarm_shared.reaper import Reaper
from vaefarm_shared.settings import Settings
from vaefarm_shared.workers import DEATH_SECONDS, publish_worker
from vaefarm_worker.lifeline import Lifeline, hold_line
from vaefarm_worker.renewer import Held, Renewer, Terms, is_stopped

LATENTS = torch.zeros(1, 4, 8, 8)


def terms(settings: Settings, **changed: object) -> Terms:
    shown = {"redis_url": settings.redis_url.get_secret_value(), "worker": "by-hand", "pid": os.getpid()}
    return Terms(**(shown | {"lease_seconds": 60.0, "decode_timeout": 300.0, "max_attempts": 3} | changed))  # type: ignore[arg-type]


def following(*lines: str) -> Held:
    held = Held(300.0)
    for line in lines:
        held.take(line)
    return held


def test_what_shared_the_device_runs_alone_what_was_alone_pays_and_the_rest_costs_nothing() -> None:
    held = ["+ a 1", "+ b 2", "+ c 3", "+ d 4", "- d"]

    assert following(*held).owed() == [("a", "1", "free"), ("b", "2", "free"), ("c", "3", "free")]
    assert following(*held, "> 300 a b").owed() == [("a", "1", "alone"), ("b", "2", "alone"), ("c", "3", "free")]
    assert following(*held, "> 300 a b", "> 300 b").owed() == [
        ("a", "1", "free"),
        ("b", "2", "attempt"),
        ("c", "3", "free"),
    ]
    assert following(*held, "> 300 a b", "<").owed()[0] == ("a", "1", "free")


def test_a_decode_hangs_beyond_its_time_and_a_worker_that_says_nothing_beyond_its_own() -> None:
    assert following("+ a 1", "> 300 a").hang() is None
    assert following("+ a 1", "> 0 a").hang() == "its decode did not end within 0 seconds"
    silent = following("+ a 1")
    silent.moved_at -= 301
    assert silent.hang() == "its worker did nothing for 300 seconds"
    idle = following("+ a 1", "- a")
    idle.moved_at -= 301
    assert idle.hang() is None, "one that holds nothing may rest"


def test_leases_are_renewed_while_the_worker_moves_and_not_beyond(
    settings: Settings, farm: Farm, connection: redis.Redis
) -> None:
    farm.submit_many([LATENTS, LATENTS + 1], vae="demo")
    first, second = take(connection, 2, lease_seconds=0.0)
    ended: list[str] = []
    renewer = Renewer(terms(settings), connection, lambda: ended.append("worker"))
    renewer.held.take(f"+ {first.job_id} {first.token}")
    renewer.held.take(f"+ {second.job_id} another-token")

    renewer.renew()

    assert float(connection.zscore(keys.LEASES, first.job_id)) - first.claimed_at > 50  # type: ignore[arg-type]
    assert float(connection.zscore(keys.LEASES, second.job_id)) - second.claimed_at < 1  # type: ignore[arg-type]
    connection.zadd(keys.LEASES, {first.job_id: 1.0})
    renewer.held.take(f"> 0 {first.job_id}")
    renewer.renew()
    assert ended == ["worker"]
    assert connection.zscore(keys.LEASES, first.job_id) == 1.0, "what hangs is not renewed"


@pytest.mark.redis
def test_leases_are_renewed_in_a_redis_that_is_full(settings: Settings, farm: Farm, connection: redis.Redis) -> None:
    farm.submit(LATENTS, vae="demo")
    [claim] = take(connection, lease_seconds=0.0)
    renewer = Renewer(terms(settings), connection, lambda: None)
    renewer.held.take(f"+ {claim.job_id} {claim.token}")
    connection.config_set("maxmemory", 1)
    try:
        renewer.renew()
    finally:
        connection.config_set("maxmemory", 0)

    assert float(connection.zscore(keys.LEASES, claim.job_id)) - claim.claimed_at > 50  # type: ignore[arg-type]


def test_a_worker_whose_device_another_took_is_ended_and_its_jobs_cost_nothing(
    settings: Settings, farm: Farm, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    farm.submit(LATENTS, vae="demo")
    [claim] = take(connection)
    ended: list[str] = []
    renewer = Renewer(terms(settings), connection, lambda: ended.append("worker"))
    renewer.held.take(f"+ {claim.job_id} {claim.token}")
    renewer.held.take(f"> 300 {claim.job_id}")
    renewer.held.take(hold_line(DeviceHold("GPU-1", "mine", "by-hand")).strip())
    renewer.renew()
    assert [one.worker for one in device_locks.read_holders(connection)] == ["by-hand"]
    assert not renewer.ended

    connection.delete(device_locks.DEVICES)
    device_locks.take(connection, ["GPU-1"], "another", "theirs", 60.0)
    renewer.renew()

    assert ended == ["worker"]
    assert "lost device GPU-1 to worker another" in caplog.text
    assert renewer.held.owed() == [(claim.job_id, claim.token, "free")]
    renewer.free_device()
    assert [one.worker for one in device_locks.read_holders(connection)] == ["another"]


def test_a_dead_worker_is_off_the_lists_and_one_of_its_name_may_start(
    settings: Settings, connection: redis.Redis
) -> None:
    publish_worker(connection, "by-hand", {"birth": "mine"})
    connection.hset("rq:worker:by-hand", "birth", "now")
    renewer = Renewer(terms(settings, birth="mine"), connection, lambda: None)

    Renewer(terms(settings, birth="theirs"), connection, lambda: None).bury()
    assert connection.exists("rq:worker:by-hand", keys.worker("by-hand")) == 2, "another's of that name stays"
    assert connection.zcard(keys.DEATHS) == 0
    renewer.bury()

    assert not connection.exists("rq:worker:by-hand", keys.worker("by-hand"))
    assert connection.zrange(keys.DEATHS, 0, -1) == [b"by-hand"]
    assert 0 < connection.ttl(keys.DEATHS) <= DEATH_SECONDS


def test_a_stopped_process_is_told_from_a_running_one() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert not is_stopped(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        eventually("it is stopped", lambda: is_stopped(child.pid))
        os.kill(child.pid, signal.SIGCONT)
        eventually("it runs again", lambda: not is_stopped(child.pid))
    finally:
        child.kill()
        child.wait()


@pytest.mark.redis
def test_the_jobs_of_a_worker_that_dies_are_back_at_once_in_their_order(
    settings: Settings, farm: Farm, connection: redis.Redis
) -> None:
    jobs = farm.submit_many([LATENTS + n for n in range(4)], vae="demo")
    claims = take(connection, 4)
    lifeline = Lifeline(settings, "by-hand")
    lifeline.hold(claims)
    begin(connection, claims[0], claims[1])
    lifeline.on_device([claims[0].job_id, claims[1].job_id], 300.0)

    lifeline.close()

    assert not connection.exists(keys.LEASES)
    assert [job.record().attempts for job in jobs] == [0, 0, 0, 0]
    assert [connection.hget(keys.job(job.id), "alone") for job in jobs] == [b"1", b"1", None, None]
    waiting = connection.lrange("rq:queue:vaefarm.demo.normal.s.default", 0, -1)
    assert waiting[:2] == [claims[2].job_id.encode(), claims[3].job_id.encode()], "the innocent first"


def test_a_job_that_was_alone_each_time_its_worker_died_fails_with_the_reason(
    settings: Settings, farm: Farm, connection: redis.Redis
) -> None:
    job, reaper = farm.submit(LATENTS, vae="demo"), Reaper(connection, 0.0, settings.max_attempts)
    for attempt in range(1, settings.max_attempts + 1):
        [claim] = take(connection)
        assert begin(connection, claim) == [attempt]
        lifeline = Lifeline(settings, "by-hand")
        lifeline.hold([claim])
        lifeline.on_device([claim.job_id], 300.0)
        lifeline.close()
    assert take(connection) == [], "its attempts are spent"

    eventually("the reaper ends it", lambda: reaper.look() and job.status() == "failed")

    with pytest.raises(JobFailed, match="3 workers went silent .* the last was by-hand: its worker by-hand ended"):
        job.result(timeout=5)


def test_a_renewer_that_dies_is_replaced_and_told_everything(
    settings: Settings, farm: Farm, connection: redis.Redis
) -> None:
    farm.submit(LATENTS, vae="demo")
    [claim] = take(connection, lease_seconds=60.0)
    lifeline = Lifeline(settings, "by-hand")
    try:
        lifeline.hold([claim])
        lifeline._process.kill()
        lifeline._process.wait()
        connection.zadd(keys.LEASES, {claim.job_id: 1.0})

        lifeline.check()

        eventually("it renews", lambda: float(connection.zscore(keys.LEASES, claim.job_id)) > 2.0)  # type: ignore[arg-type]
    finally:
        lifeline.drop([claim])
        lifeline.close()


def test_a_worker_that_its_renewer_has_ended_and_could_not_kill_ends_itself() -> None:
    """As the first process of a container, which no signal of its own container ends."""
    code = (
        "import subprocess, sys\n"
        "from vaefarm_shared.settings import Settings\n"
        "from vaefarm_worker.lifeline import Lifeline\n"
        "from vaefarm_worker.renewer import ENDED\n"
        "lifeline = Lifeline(Settings().at('redis://127.0.0.1:1/0'), 'by-hand')\n"
        "lifeline.close()\n"
        "ended = [sys.executable, '-c', f'raise SystemExit({ENDED})']\n"
        "lifeline._process = subprocess.Popen(ended, stdin=subprocess.PIPE)\n"
        "lifeline._process.wait()\n"
        "lifeline.check()\n"
        "print('it lives')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (1, ""), done.stderr


def test_no_password_shows_in_the_process_list(settings: Settings) -> None:
    lifeline = Lifeline(settings.at("redis://:secret@127.0.0.1:1/0"), "by-hand")
    try:
        assert b"secret" not in Path(f"/proc/{lifeline._process.pid}/cmdline").read_bytes()
    finally:
        lifeline.close()


def test_dropping_a_claim_leaves_a_newer_one_of_the_same_job_held(settings: Settings) -> None:
    lifeline = Lifeline(settings.at("redis://127.0.0.1:1/0"), "by-hand")
    try:
        lifeline.hold([Claim("a", "q", "new", 0.0)])
        lifeline.drop([Claim("a", "q", "old", 0.0)])
        assert lifeline.held() == {"a": "new"}
        lifeline.drop([Claim("a", "q", "new", 0.0)])
    finally:
        lifeline.close()
