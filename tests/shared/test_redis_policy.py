"""What a farm says of a Redis that evicts, forgets, is old, or does not tell."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from tests.conftest import RedisServer, redis_servers

from vaefarm_producer import Farm
from vaefarm_shared.connection import connect, farm_errors
from vaefarm_shared.errors import ConfigurationError, FarmUnavailable
from vaefarm_shared.redis_policy import RedisPolicy, check_policy, read_policy
from vaefarm_shared.settings import Settings

StartRedis = Callable[..., redis.Redis]


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[StartRedis]:
    """Start a redis-server with options; a client of it, by any user."""
    started: list[RedisServer] = []

    def start(*options: str, user: str = "") -> redis.Redis:
        server = RedisServer(next(iter(redis_servers().values())), tmp_path, options)
        server.start()
        started.append(server)
        return connect(server.url.replace("//", f"//{user}", 1))

    yield start
    for server in started:
        server.stop()


def test_a_redis_that_evicts_is_refused_in_one_line_that_says_what_to_set(start_redis: StartRedis) -> None:
    connection = start_redis("--maxmemory-policy", "allkeys-lru", "--appendonly", "yes")

    with pytest.raises(ConfigurationError, match="maxmemory-policy allkeys-lru.*set maxmemory-policy noeviction") as e:
        check_policy(connection, allow_eviction=False)

    assert "\n" not in str(e.value)
    (warning,) = check_policy(connection, allow_eviction=True)
    assert "deletes acknowledged jobs" in warning


def test_a_redis_without_an_append_only_file_is_a_warning(start_redis: StartRedis) -> None:
    (warning,) = check_policy(start_redis(), allow_eviction=False)

    assert "no append-only file" in warning


def test_a_durable_redis_that_evicts_nothing_is_taken_without_a_word(start_redis: StartRedis) -> None:
    connection = start_redis("--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "100mb")

    assert check_policy(connection, allow_eviction=False) == []
    policy = read_policy(connection)
    assert (policy.maxmemory, policy.appendfsync) == (100 * 1024**2, "always")


def test_a_redis_that_forbids_config_is_judged_by_info(start_redis: StartRedis) -> None:
    acl = ("--user", "app", "on", "nopass", "~*", "&*", "+@all", "-config")
    connection = start_redis("--maxmemory-policy", "volatile-lru", *acl, user="app:x@")

    with pytest.raises(ConfigurationError, match="volatile-lru"):
        check_policy(connection, allow_eviction=False)

    assert read_policy(connection).appendfsync is None


def test_a_redis_that_forbids_info_and_config_is_a_warning(start_redis: StartRedis) -> None:
    acl = ("--user", "app", "on", "nopass", "~*", "&*", "+@all", "-config", "-info")
    connection = start_redis("--maxmemory-policy", "volatile-lru", *acl, user="app:x@")

    (warning,) = check_policy(connection, allow_eviction=False)

    assert "does not tell its maxmemory-policy" in warning


def test_a_redis_without_the_replicas_that_it_must_have_is_waited_for(start_redis: StartRedis) -> None:
    connection = start_redis("--min-replicas-to-write", "1")
    host = connection.connection_pool.connection_kwargs
    settings = Settings.from_env(redis_url=f"redis://{host['host']}:{host['port']}/0", submit_timeout=30.0)
    with Farm(settings=settings) as farm:
        with pytest.raises(FarmUnavailable, match="takes no writes now: NOREPLICAS"), farm_errors(connection):
            connection.set("vaefarm:x", "y")
        mended = threading.Timer(0.5, lambda: connection.config_set("min-replicas-to-write", 0))
        mended.start()
        job = farm.submit(np.zeros((1, 4, 8, 8), np.float32), vae="demo")
        mended.join()

        assert job.status() == "queued"


@pytest.mark.parametrize(("version", "old"), [("6.0.16", True), ("5.0", True), ("6.2.0", False), ("10.0.1", False)])
def test_a_redis_before_6_2_is_too_old(version: str, old: bool) -> None:
    assert RedisPolicy(version, f"Redis {version}", 0, "noeviction", True, "always").is_too_old is old
