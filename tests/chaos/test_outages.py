"""Redis restarted, paused, full, or its connections cut while jobs are under way: all drains, nothing is lost."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from tests.chaos.arena import Arena, MakeArena
from tests.chaos.oracle import Verdict
from tests.conftest import RedisServer, eventually

from vaefarm_producer import QueueFull
from vaefarm_shared import keys
from vaefarm_shared.job import JobStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def under_way(arena: Arena, jobs: int = 120, workers: int = 2) -> None:
    """Have `jobs` under way, about a third of them ended."""
    for _ in range(workers):
        arena.crew.start("--seconds", "0.05")
    names = [keys.worker(member.name) for member in arena.crew.members]
    eventually("all serve", lambda: arena.connection.exists(*names) == workers)
    arena.oracle.submit(range(jobs))
    eventually("a third have ended", lambda: len(arena.oracle.unended()) < jobs * 2 // 3)


def test_redis_restarted_with_its_log_in_mid_flight_loses_nothing(arena: Arena, own_server: RedisServer) -> None:
    under_way(arena)

    own_server.stop()
    own_server.start()
    arena.oracle.submit(range(1000, 1020))

    assert arena.oracle.verdict() == Verdict(jobs=140)
    assert all(member.is_alive for member in arena.crew.members), "an outage ends no worker"


def test_connections_killed_again_and_again_lose_nothing(arena: Arena) -> None:
    under_way(arena)

    for _ in range(10):
        for kind in ("normal", "pubsub"):
            arena.connection.client_kill_filter(_type=kind, skipme=True)
        arena.oracle.submit([len(arena.oracle.orders)])

    assert arena.oracle.verdict() == Verdict(jobs=130)
    assert all(member.is_alive for member in arena.crew.members)


def test_a_redis_paused_for_longer_than_a_lease_loses_nothing(make_arena: MakeArena) -> None:
    arena = make_arena(lease_seconds=1.5)
    under_way(arena)

    arena.connection.client_pause(4000)
    arena.oracle.submit(range(1000, 1010))

    assert arena.oracle.verdict() == Verdict(jobs=130)


@contextmanager
def generator(arena: Arena) -> Iterator[None]:
    """Submit a job every 50 ms while the block runs, and have each acknowledged."""
    stopping = threading.Event()

    def generate() -> None:
        number = 2000
        while not stopping.wait(0.05):
            arena.oracle.submit([number])
            number += 1

    thread = threading.Thread(target=generate, name="generator")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(60)
        assert not thread.is_alive(), "every submit was answered"


def test_redis_away_for_a_while_under_a_generator_loses_no_latent(arena: Arena, own_server: RedisServer) -> None:
    arena.crew.start()
    with generator(arena):
        eventually("it generates", lambda: len(arena.oracle.orders) > 10)
        own_server.stop()
        time.sleep(4)
        own_server.start()
        before = len(arena.oracle.orders)
        eventually("it goes on", lambda: len(arena.oracle.orders) > before + 10)

    assert arena.oracle.verdict() == Verdict(jobs=len(arena.oracle.orders))


def fill(arena: Arena) -> int:
    """Submit jobs of 64 KiB until the farm takes no more; return how many it took."""

    def submit_for_ever() -> None:
        while True:
            arena.oracle.submit([len(arena.oracle.orders)], size=64)

    with pytest.raises(QueueFull) as refused:
        submit_for_ever()
    assert refused.value.retry_after_seconds > 0
    return len(arena.oracle.orders)


def test_a_farm_that_is_full_refuses_submits_and_drains_as_it_is(arena: Arena) -> None:
    """With maxmemory never raised: what was reserved for results is there when they are stored."""
    used = int(arena.connection.info("memory")["used_memory"])
    arena.connection.config_set("maxmemory", used + 24_000_000)
    accepted = fill(arena)
    assert accepted > 10

    arena.crew.start()

    assert arena.oracle.verdict() == Verdict(jobs=accepted)
    arena.oracle.submit([5000], size=64)
    assert arena.oracle.verdict() == Verdict(jobs=accepted + 1), "and it takes jobs again"


def test_a_redis_with_no_memory_left_delays_what_is_under_way_and_loses_nothing(arena: Arena) -> None:
    """Somebody else's data fills it: workers wait until there is room again."""
    under_way(arena, jobs=60)
    arena.connection.config_set("maxmemory", 1)
    with pytest.raises(QueueFull):
        arena.oracle.submit([1000])
    with pytest.raises(redis.OutOfMemoryError):
        arena.connection.set("somebody-elses", "x")

    arena.connection.config_set("maxmemory", 0)

    assert arena.oracle.verdict() == Verdict(jobs=60)
    assert {arena.farm.job(one).status() for one in arena.oracle.orders} == {JobStatus.FINISHED}
