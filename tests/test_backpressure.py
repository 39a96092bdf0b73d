"""A full farm: refused at once unless the caller waits, and then every job is taken once, in order."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer
from rq.utils import as_text
from tests.conftest import RedisServer, Serve, eventually
from tests.served_gateway import ServedGateway

from vaefarm_producer import AsyncFarm, Farm, InvalidInput, InvalidOption, QueueFull, backpressure, sending
from vaefarm_producer.backpressure import JITTER, Patience
from vaefarm_shared import latents
from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.job import JobSpec
from vaefarm_shared.settings import Settings

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
QUEUE = "rq:queue:vaefarm.demo.normal.s.default"


def fill(connection: redis.Redis) -> None:
    connection.config_set("maxmemory", "1")


def empty(connection: redis.Redis) -> None:
    connection.config_set("maxmemory", "0")


@pytest.fixture
def full(connection: redis.Redis) -> Iterator[redis.Redis]:
    """A Redis without memory for another job."""
    fill(connection)
    yield connection
    empty(connection)


def queued(connection: redis.Redis) -> list[str]:
    return [as_text(job_id) for job_id in connection.lrange(QUEUE, 0, -1)]


def test_a_full_farm_refuses_at_once_and_queues_nothing(farm: Farm, full: redis.Redis) -> None:
    with pytest.raises(QueueFull, match="no memory left") as refusal:
        farm.submit(LATENTS, vae="demo")

    assert refusal.value.retry_after_seconds > 0
    assert queued(full) == []


def test_a_farm_of_so_many_jobs_takes_the_next_once_one_has_ended(
    settings: Settings, connection: redis.Redis, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = settings.model_copy(update={"max_queued_jobs": 3})
    with Farm(settings=small) as farm:
        ids = [f"job-{n}" for n in range(7)]
        with pytest.raises(QueueFull, match="it holds 3 of at most 3 jobs; try again in") as refusal:
            farm.submit_many([LATENTS + n for n in range(7)], vae="demo", job_ids=ids)
        assert queued(connection) == ids[:3], "those before the first that was refused"
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            serve()

        monkeypatch.setattr(sending, "sleep", sleep)

        jobs = farm.submit_many([LATENTS + n for n in range(7)], vae="demo", job_ids=ids, block=True)
        serve()

    assert [job.id for job in jobs] == ids
    assert {job.status().value for job in jobs} == {"finished"}
    assert waits[0] >= refusal.value.retry_after_seconds


def test_block_waits_what_was_suggested_until_the_farm_takes_the_job(
    farm: Farm, full: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            empty(full)

    monkeypatch.setattr(sending, "sleep", sleep)

    job = farm.submit(LATENTS, vae="demo", block=True)

    assert job.status() == "queued"
    assert len(waits) == 3
    assert all(1.0 <= seconds <= 1.0 + JITTER for seconds in waits)
    assert len(set(waits)) == 3, "those who wait do not come back together"


def test_a_blocked_submit_gives_up_at_its_timeout_with_the_farms_refusal(
    farm: Farm, full: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(backpressure, "monotonic", lambda: now[0])
    monkeypatch.setattr(sending, "sleep", lambda seconds: now.append(now.pop() + seconds))

    with pytest.raises(QueueFull):
        farm.submit(LATENTS, vae="demo", block=True, timeout=10)

    assert now[0] == pytest.approx(1010), "no longer, no shorter"


@pytest.mark.parametrize("is_http", [False, True], ids=["redis", "http"])
def test_a_job_that_holds_more_than_the_farm_ever_may_is_not_told_to_wait(
    is_http: bool, settings: Settings, connection: redis.Redis, serve: Serve
) -> None:
    # Room for the small job's latents and picture, and more.
    small = settings.model_copy(update={"budget_bytes": 60_000})
    large = np.zeros((1, 4, 32, 32), np.float32)
    with ExitStack() as stack:
        if is_http:
            gateway = ServedGateway(small, delivers=False)
            gateway.start()
            stack.callback(gateway.stop)
            small = small.at(gateway.url)
        farm = stack.enter_context(Farm(settings=small))

        with pytest.raises(InvalidInput, match=r"holds 2\d{5} bytes of Redis .* at most 60000 in all") as refusal:
            farm.submit(large, vae="demo", block=True, timeout=5, job_id="large")

        assert "VAEFARM_BUDGET_BYTES" in str(refusal.value)
        assert "again" not in str(refusal.value), "no wait helps"
        with pytest.raises(InvalidInput, match="the farm at most 60000 in all"):
            farm.submit_many([LATENTS, large], vae="demo")
        assert len(queued(connection)) == 1, "the one that fits"
        serve()


def test_a_timeout_without_block_is_refused(farm: Farm) -> None:
    with pytest.raises(InvalidOption, match="timeout=5 is for block=True"):
        farm.submit(LATENTS, vae="demo", timeout=5)


async def test_the_async_farm_waits_without_a_thread_and_can_be_cancelled(
    settings: Settings, full: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeping = asyncio.Event()
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        sleeping.set()
        await real_sleep(3600 if full.config_get("maxmemory")["maxmemory"] == "1" else 0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    async with AsyncFarm(settings=settings) as farm:
        with pytest.raises(QueueFull):
            await farm.submit(LATENTS, vae="demo")
        task = asyncio.ensure_future(farm.submit_many([LATENTS, LATENTS + 1], vae="demo", block=True))
        await sleeping.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert queued(full) == []

        empty(full)
        jobs = await farm.submit_many([LATENTS, LATENTS + 1], vae="demo", block=True)
        assert [job.id for job in jobs] == queued(full)


def test_ctrl_c_ends_a_blocked_submit(server: RedisServer, full: redis.Redis) -> None:
    code = (
        "import sys, numpy as np; from vaefarm_producer import Farm\n"
        "farm = Farm(sys.argv[1])\n"
        "farm.submit(np.zeros((1, 4, 64, 64), np.float32), vae='demo', block=True)\n"
    )
    full.config_resetstat()
    process = subprocess.Popen([sys.executable, "-c", code, server.url], stderr=subprocess.PIPE, text=True)

    def was_refused() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return int(full.info("commandstats").get("cmdstat_set", {}).get("rejected_calls", 0)) >= 1

    eventually("its latent was refused", was_refused)
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=30)[1].splitlines()[-1] == "KeyboardInterrupt"
    assert process.returncode in (-signal.SIGINT, 130)
    assert queued(full) == []


def test_patience_never_sleeps_past_its_end() -> None:
    refusal = QueueFull("full", retry_after_seconds=1000.0)

    assert Patience(True, 5.0).after(refusal) <= 5.0
    assert Patience(True, None).after(refusal) >= 1000.0
    for impatient in (Patience(False, None), Patience(True, 0.0)):
        with pytest.raises(QueueFull, match="full"):
            impatient.after(refusal)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_redis_that_evicts_is_refused_before_the_first_submit_unless_that_was_allowed(
    settings: Settings, connection: redis.Redis, caplog: pytest.LogCaptureFixture, allowed: bool
) -> None:
    connection.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with Farm(settings=settings.model_copy(update={"allow_eviction": allowed})) as farm:
            if allowed:
                for _ in range(3):
                    farm.submit(LATENTS, vae="demo")
                assert caplog.text.count("deletes acknowledged jobs") == 1, "said once"
            else:
                for _ in range(3):
                    with pytest.raises(ConfigurationError, match="maxmemory-policy allkeys-lru.*set .* noeviction"):
                        farm.submit(LATENTS, vae="demo")
        assert len(queued(connection)) == (3 if allowed else 0)
    finally:
        connection.config_set("maxmemory-policy", "noeviction")


def test_many_are_canceled_in_few_round_trips_and_each_is_answered_for(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    finished = farm.submit(LATENTS, vae="demo")
    serve()
    jobs = farm.submit_many([LATENTS + n for n in range(20)], vae="demo")

    statuses = farm.cancel_many([finished, farm.job("nobody"), *jobs])

    assert statuses == ["finished", None] + ["canceled"] * 20
    serve()
    assert {job.status().value for job in jobs} == {"canceled"}


def test_every_waiting_job_of_a_vae_is_found_while_workers_take_some(farm: Farm, connection: redis.Redis) -> None:
    jobs = farm.submit_many([LATENTS] * 2500, vae="demo")
    other = farm.submit(LATENTS, vae="sdxl")
    found = []
    for n, job in enumerate(farm.queued("demo")):
        found.append(job)
        if n % 100 == 0:
            connection.lpop(QUEUE)

    assert set(found) >= set(jobs[25:])
    assert other not in found


def test_put_latent_gives_the_one_argument_of_a_plain_rq_job_and_keeps_the_latent_a_day(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    argument = farm.put_latent(LATENTS, vae="demo", job_id="plain", metadata={"prompt": "a cat"})

    spec = JobSpec.from_json(json.dumps(argument))
    assert (spec.id, spec.vae, spec.metadata) == ("plain", "demo", {"prompt": "a cat"})
    scheme, _, name = argument["latent"].partition(":")
    assert scheme == "redis"
    packed = connection.get(f"vaefarm:{name}")
    assert isinstance(packed, bytes)
    assert np.array_equal(latents.unpack(packed).array, LATENTS)
    assert 23 * 3600 < connection.ttl(f"vaefarm:{name}") <= 24 * 3600
    queue = Queue("vaefarm.demo", connection=connection, serializer=JSONSerializer)
    job = queue.enqueue("vaefarm_worker.tasks.decode", argument, job_id=argument["id"])
    assert (job.id, list(job.args)) == ("plain", [argument])

    serve()

    assert farm.job("plain").record().metadata == {"prompt": "a cat"}
    same = farm.submit(LATENTS, vae="demo", metadata={"prompt": "a cat"})
    serve()
    assert farm.job("plain").result(10).data == same.result(10).data


def test_no_worker_takes_jobs_of_a_paused_vae_until_it_is_resumed(farm: Farm, serve: Serve) -> None:
    paused, other = farm.submit(LATENTS, vae="demo"), farm.submit(LATENTS, vae="sdxl")

    assert farm.pause("demo")
    late = farm.submit(LATENTS + 1, vae="demo")
    serve()
    assert [job.status().value for job in (paused, late, other)] == ["queued", "queued", "finished"]

    assert farm.resume("demo")
    serve()
    assert [job.status().value for job in (paused, late)] == ["finished", "finished"]


async def test_the_async_farm_operates_too(settings: Settings, connection: redis.Redis) -> None:
    async with AsyncFarm(settings=settings) as farm:
        job = await farm.submit(LATENTS, vae="demo")
        assert await farm.pause("demo")
        assert await farm.paused() == ["demo"]
        assert await farm.resume("demo")
        assert await farm.cancel_many([job, farm.job("nobody")]) == ["canceled", None]
        assert not await job.retry()
        assert await farm.failed() == []
        assert await farm.flush() == (0, 0)
        assert (await farm.put_latent(LATENTS, vae="demo", job_id="plain"))["id"] == "plain"
