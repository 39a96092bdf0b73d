"""Workers and Redis die in mid-decode; every acknowledged job ends all the same."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import redis
import torch
from tests.claims import begin, take
from tests.conftest import RedisServer, Serve, StartWorker, eventually, redis_servers

from vaefarm_producer import Farm, Job, JobFailed, QueueFull
from vaefarm_shared import keys, leases, transitions
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.connection import connect
from vaefarm_shared.job import JobStatus
from vaefarm_shared.reaper import Reaper
from vaefarm_shared.settings import Settings
from vaefarm_shared.transitions import Outcome
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode
from vaefarm_worker.worker import Worker

LATENTS = torch.zeros(1, 4, 8, 8)
QUEUE = "vaefarm.demo.normal.s.default"


@pytest.mark.redis
@pytest.mark.slow
def test_a_worker_killed_in_mid_decode_loses_no_job(
    farm: Farm, connection: redis.Redis, start_worker: StartWorker
) -> None:
    """The real VAE, the real process, SIGKILL: another worker finishes the job, with one more attempt."""
    large = torch.randn(1, 4, 160, 160, generator=torch.Generator().manual_seed(0))
    first = start_worker(vaes="demo")
    job = farm.submit(large, vae="demo")
    eventually("the decode has begun", lambda: job.status() == "started")

    first.process.kill()
    first.process.wait()
    # Its renewer hands the job back, with nobody else alive.
    eventually("the job is back in its queue", lambda: job.status() == "queued")
    second = start_worker(vaes="demo")

    assert job.image(timeout=60).size == (1280, 1280)
    record = job.record()
    assert (record.worker, record.attempts) == (second.name, 2)
    assert not connection.zrange(f"rq:wip:{QUEUE.replace('.s.', '.l.')}", 0, -1)
    assert len(list(connection.scan_iter("vaefarm:image:*"))) == 1


@pytest.mark.slow
def test_sigterm_finishes_what_is_on_the_device_hands_the_rest_back_and_exits_0(
    farm: Farm, connection: redis.Redis, start_worker: StartWorker
) -> None:
    worker = start_worker("--decoder", "fake", "--fake-seconds", "1.5")
    jobs = [farm.submit(torch.zeros(1, 4, 8, 8 + n), vae="demo") for n in range(4)]
    eventually("the decode has begun", lambda: jobs[0].status() == "started")

    worker.process.send_signal(signal.SIGTERM)

    assert worker.process.wait(30) == 0, worker.log
    assert [job.status().value for job in jobs] == ["finished", "queued", "queued", "queued"]
    assert connection.lrange(f"rq:queue:{QUEUE}", 0, -1) == [job.id.encode() for job in jobs[1:]], "in their order"
    assert [job.record().attempts for job in jobs] == [1, 0, 0, 0]
    assert farm.workers() == []
    assert not connection.exists(keys.LEASES)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_worker_at_once_and_its_job_goes_to_another(
    farm: Farm, start_worker: StartWorker, serve: Serve
) -> None:
    worker = start_worker("--decoder", "fake", "--fake-seconds", "60")
    job = farm.submit(LATENTS, vae="demo")
    eventually("the decode has begun", lambda: job.status() == "started")

    worker.process.send_signal(signal.SIGINT)
    eventually("the first one is heard", lambda: "once more ends it" in worker.log)
    worker.process.send_signal(signal.SIGINT)

    assert worker.process.wait(10) == 128 + signal.SIGINT
    start_worker("--decoder", "fake")
    assert job.wait(timeout=30) == "finished"


@pytest.mark.redis
@pytest.mark.slow
def test_a_worker_that_slept_through_its_lease_changes_nothing(
    farm: Farm, connection: redis.Redis, start_worker: StartWorker
) -> None:
    sleeper = start_worker("--decoder", "fake", "--fake-seconds", "1")
    job = farm.submit(LATENTS, vae="demo")
    eventually("the decode has begun", lambda: job.status() == "started")
    os.kill(sleeper.process.pid, signal.SIGSTOP)
    start_worker("--decoder", "fake")
    assert job.wait(timeout=30) == "finished"
    before, images = job.record(), sorted(connection.scan_iter("vaefarm:image:*"))

    os.kill(sleeper.process.pid, signal.SIGCONT)

    eventually("the sleeper drops its work", lambda: "what was done for it is dropped" in sleeper.log)
    assert job.record() == before
    assert sorted(connection.scan_iter("vaefarm:image:*")) == images


@pytest.mark.slow
def test_redis_restarted_with_its_log_in_mid_decode_loses_no_job(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(
        next(iter(redis_servers().values())), folder, ("--appendonly", "yes", "--appendfsync", "always")
    )
    server.start()
    own = settings.at(server.url)
    worker = Worker(own, FakeDecoder([Catalogue.load()["demo"]], seconds_per_batch=0.05), "here")
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        with Farm(settings=own) as farm:
            jobs = farm.submit_many([LATENTS + n for n in range(60)], vae="demo")
            eventually("half are finished", lambda: jobs[20].status() == "finished")
            server.stop()
            server.start()
            late = farm.submit(LATENTS - 1, vae="demo")

            ended = {job.id for job in farm.as_completed([*jobs, late], timeout=60)}

            assert ended == {job.id for job in [*jobs, late]}
            assert {job.status().value for job in [*jobs, late]} == {"finished"}
    finally:
        worker.stop()
        thread.join(40)
        server.stop()


def test_a_job_that_ends_each_of_its_workers_fails_in_the_end(
    farm: Farm, connection: redis.Redis, settings: Settings
) -> None:
    job, reaper = farm.submit(LATENTS, vae="demo"), Reaper(connection, 0.0, settings.max_attempts)
    for _ in range(settings.max_attempts):
        [claim] = take(connection, lease_seconds=0.0)
        begin(connection, claim, worker="doomed")
        eventually("its lease ends", reaper.look)

    with pytest.raises(JobFailed, match="3 workers went silent while they decoded it; the last was doomed"):
        job.result(timeout=5)
    assert not connection.zrange(f"rq:wip:{QUEUE}", 0, -1)


def test_a_death_before_the_decode_costs_the_job_nothing(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    jobs = farm.submit_many([LATENTS, LATENTS + 1], vae="demo")
    for _ in range(5):
        take(connection, lease_seconds=0.0)
        eventually("its lease ends", lambda: leases.reap(connection, 3))
    assert connection.lrange(f"rq:queue:{QUEUE}", 0, -1) == [job.id.encode() for job in jobs], "to the front again"

    serve()

    assert [job.record().attempts for job in jobs] == [1, 1]


@pytest.mark.redis
@pytest.mark.parametrize(
    "garbage",
    [{"queued_at": "yesterday"}, {"attempts": "many"}, {"status": "asleep"}, {"spec": '{"result_seconds":-5}'}],
)
def test_a_garbled_record_keeps_nobody_elses_job_from_coming_back(
    farm: Farm, connection: redis.Redis, garbage: dict[str, str]
) -> None:
    garbled, good = farm.submit_many([LATENTS, LATENTS + 1], vae="demo")
    take(connection, 2, lease_seconds=0.0)
    connection.hset(keys.job(garbled.id), mapping=garbage)  # type: ignore[arg-type]

    eventually("the good job comes back", lambda: good.id in [one.claim.job_id for one in leases.reap(connection, 3)])

    assert good.id.encode() in connection.lrange(f"rq:queue:{QUEUE}", 0, -1)


@pytest.mark.redis
def test_a_redis_that_is_full_refuses_a_submit_whole_and_loses_nothing(
    settings: Settings, connection: redis.Redis, serve: Serve
) -> None:
    """Others fill it, so that it is full before the farm's own budget is."""
    accepted: list[Job] = []

    def fill(farm: Farm) -> None:
        for number in range(200):
            accepted.append(farm.submit(torch.full((1, 4, 128, 128), float(number)), vae="demo"))

    connection.config_set("maxmemory", connection.info("memory")["used_memory"] + 4_000_000)
    unbounded = settings.model_copy(update={"budget_bytes": 1 << 40})
    try:
        with Farm(settings=unbounded) as farm:
            with pytest.raises(QueueFull, match="no memory left"):
                fill(farm)
            assert accepted
            waiting = connection.lrange(f"rq:queue:{QUEUE.replace('.s.', '.m.')}", 0, -1)
            assert waiting == [job.id.encode() for job in accepted], "the refused one left nothing behind"
            assert len(list(connection.scan_iter("vaefarm:latent:*"))) == len(accepted)
            connection.config_set("maxmemory", 0)
            serve()
            assert {job.status().value for job in accepted} == {"finished"}
    finally:
        connection.config_set("maxmemory", 0)


@pytest.mark.redis
def test_a_farm_filled_to_its_budget_settles_everything_within_maxmemory(
    settings: Settings, connection: redis.Redis, serve: Serve
) -> None:
    """Room for a job's picture is reserved with its latent: what was acknowledged is never refused its settle."""
    connection.config_set("maxmemory", connection.info("memory")["used_memory"] + 30_000_000)
    jobs: list[Job] = []
    noise = torch.Generator().manual_seed(0)

    def fill(farm: Farm) -> None:
        while True:
            jobs.append(farm.submit(torch.randn(1, 4, 32, 32, generator=noise), vae="demo"))

    try:
        with Farm(settings=settings) as farm:
            with pytest.raises(QueueFull, match="holds .* bytes of Redis for latents and pictures") as refused:
                fill(farm)
            assert len(jobs) > 10
            assert 0 < refused.value.retry_after_seconds <= 60
            serve(NoisyDecoder([Catalogue.load()["demo"]]))
            assert {job.status().value for job in jobs} == {"finished"}
            stored = sum(connection.strlen(key) for key in connection.scan_iter("vaefarm:image:*"))
            assert stored > 10 * 32 * 32 * 64 * 2, "the pictures were ones that no codec makes small"
            assert connection.hgetall(keys.BUDGET) == {b"bytes": str(stored).encode(), b"jobs": b"0"}
            for job in jobs:
                job.discard()
            assert connection.hget(keys.BUDGET, "bytes") == b"0"
    finally:
        connection.config_set("maxmemory", 0)


class NoisyDecoder(FakeDecoder):
    """Pictures of noise: the largest files."""

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        draw = np.random.default_rng(0)
        shapes = [(item.spec.count, item.spec.height, item.spec.width, 3) for item in batch.items]
        return [Decoded(draw.integers(0, 256, shape, np.uint8), "fake") for shape in shapes]


def test_a_worker_told_to_stop_while_redis_is_away_fails_no_job(settings: Settings, tmp_path: Path) -> None:
    """It gives up and leaves its job to the lease: being away is no fault of the job's."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(
        next(iter(redis_servers().values())), folder, ("--appendonly", "yes", "--appendfsync", "always")
    )
    server.start()
    own = settings.at(server.url).model_copy(update={"drain_seconds": 2.0})
    worker = Worker(own, FakeDecoder([Catalogue.load()["demo"]], seconds_per_batch=1.0), "here")
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        with Farm(settings=own) as farm:
            job = farm.submit(LATENTS, vae="demo")
            eventually("the decode has begun", lambda: job.status() == "started")
            server.stop()
            worker.stop()
            thread.join(30)
            assert not thread.is_alive()
            server.start()
            assert job.status() == "started", "not failed: it comes back when its lease ends"
            Worker(own, FakeDecoder([Catalogue.load()["demo"]]), "next").run(burst=True)
            connection = connect(server.url)
            eventually("its lease ends", lambda: leases.reap(connection, 3) or job.status() != "started")
            connection.close()
            Worker(own, FakeDecoder([Catalogue.load()["demo"]]), "last").run(burst=True)
            assert job.wait(timeout=10) == "finished"
    finally:
        worker.stop()
        thread.join(30)
        server.stop()


def test_every_transition_tests_the_token(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo")
    [late] = take(connection, lease_seconds=0.0)
    eventually("its lease ends", lambda: leases.reap(connection, 3))
    serve()
    before = connection.hgetall(keys.job(job.id))

    assert begin(connection, late) == ["lost"]
    assert leases.give_back(connection, [(late, "attempt")], "late") == [False]
    assert transitions.settle(connection, [Outcome(late, JobStatus.FAILED, "late", "late")]) == [False]
    assert leases.renew(connection, [(late.job_id, late.token)], 60.0) == 0

    assert connection.hgetall(keys.job(job.id)) == before


def test_a_losers_pictures_go_in_the_step_that_refuses_them(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    """It may die before it could remove them itself."""
    job = farm.submit(LATENTS, vae="demo")
    [late] = take(connection, lease_seconds=0.0)
    eventually("its lease ends", lambda: leases.reap(connection, 3))
    serve()
    finished = job.record().report
    assert finished is not None
    name = f"image:{job.id}.{late.token}.0"
    stale = finished.images[0].model_copy(update={"blob": f"redis:{name}"})
    report = finished.model_copy(update={"images": (stale,)})

    outcome = Outcome(late, JobStatus.FINISHED, "late", report=report, files=[(keys.blob(name), b"late", 60)])
    assert transitions.settle(connection, [outcome]) == [False]

    assert not connection.exists(keys.blob(name))
    assert len(list(connection.scan_iter("vaefarm:image:*"))) == 1


def test_a_lease_that_is_renewed_is_not_reaped(farm: Farm, connection: redis.Redis) -> None:
    job = farm.submit(LATENTS, vae="demo")
    [claim] = take(connection, lease_seconds=0.0)

    assert leases.renew(connection, [(job.id, claim.token), ("nobody", "token")], 60.0) == 1

    assert leases.reap(connection, 3) == []
    assert connection.zscore(keys.LEASES, "nobody") is None, "a renewal makes no lease"
