"""A reply cut on the way back, from any command: one job, one list entry, one picture."""

import threading
from collections.abc import Iterator

import pytest
import redis
import torch
from tests.chaos.proxy import CuttingProxy
from tests.conftest import RedisServer, Serve

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.worker import Worker

QUEUE = "rq:queue:vaefarm.demo.normal.s.default"

#: Rows of latents that their script carries, and of latents that are written beside it.
SIDES = (8, 64)


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server.port)
    yield proxy
    proxy.close()


def through(settings: Settings, proxy: CuttingProxy) -> Settings:
    return settings.at(f"redis://127.0.0.1:{proxy.port}/0")


@pytest.mark.redis
@pytest.mark.parametrize("side", SIDES)
def test_a_reply_to_any_command_of_submit_may_be_lost(
    settings: Settings, proxy: CuttingProxy, connection: redis.Redis, serve: Serve, side: int
) -> None:
    reply = cuts = 0
    while True:
        connection.flushall()
        connection.script_flush()
        proxy.cut(reply)
        with Farm(settings=through(settings, proxy)) as farm:
            job = farm.submit(torch.full((1, 4, side, side), float(reply)), vae="demo")
            was_cut = proxy.has_cut
            proxy.cut(-1)

            assert connection.lrange(QUEUE, 0, -1) == [job.id.encode()], f"reply {reply}"
            serve()
            assert job.record().attempts == 1
            assert len(list(connection.scan_iter("vaefarm:image:*"))) == 1
        if not was_cut:
            break
        cuts += 1
        reply += 1
    assert cuts >= 3, "the contract, the script's load and the submit were cut at least"


@pytest.mark.parametrize("side", SIDES)
def test_a_reply_to_any_command_of_a_bulk_submit_may_be_lost(
    settings: Settings, proxy: CuttingProxy, connection: redis.Redis, side: int
) -> None:
    reply = 0
    while True:
        connection.flushall()
        connection.script_flush()
        proxy.cut(reply)
        with Farm(settings=through(settings, proxy)) as farm:
            jobs = farm.submit_many([torch.full((1, 4, side, side), float(n)) for n in range(20)], vae="demo")
        assert connection.lrange(QUEUE, 0, -1) == [job.id.encode() for job in jobs], f"reply {reply}"
        if not proxy.has_cut:
            break
        reply += 1


@pytest.mark.redis
@pytest.mark.slow
def test_a_reply_to_any_command_of_a_worker_may_be_lost(
    settings: Settings, proxy: CuttingProxy, connection: redis.Redis, farm: Farm
) -> None:
    """Two jobs through a worker, each of its replies cut once: both finish, each with one picture."""
    quick = through(settings, proxy).model_copy(update={"lease_seconds": 1.0, "max_attempts": 20})
    for reply in range(3, 60, 4):
        connection.flushall()
        jobs = farm.submit_many([torch.full((1, 4, 8, 8), float(n)) for n in range(2)], vae="demo")
        worker = Worker(quick, FakeDecoder([Catalogue.load()["demo"]]), f"worker-{reply}")
        proxy.cut(reply)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            assert [job.wait(timeout=20).value for job in jobs] == ["finished", "finished"], f"reply {reply}"
        finally:
            worker.stop()
            thread.join(20)
            proxy.cut(-1)
        assert not thread.is_alive()
        assert len(list(connection.scan_iter("vaefarm:image:*"))) == 2, f"reply {reply}"
        assert not connection.zrange("vaefarm:leases", 0, -1)
        assert not connection.zrange("rq:wip:vaefarm.demo.normal.s.default", 0, -1)


def test_redis_away_for_a_moment_delays_a_submit_and_loses_nothing(
    settings: Settings, proxy: CuttingProxy, connection: redis.Redis
) -> None:
    with Farm(settings=through(settings, proxy)) as farm:
        farm.submit(torch.zeros(1, 4, 8, 8), vae="demo")
        connection.client_kill_filter(_type="normal", skipme=True)

        job = farm.submit(torch.ones(1, 4, 8, 8), vae="demo")

        assert job.status() == "queued"
        assert connection.llen(QUEUE) == 2
