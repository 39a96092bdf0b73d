"""`vaefarm health`: what a container's health check says of each service."""

import json
import socket
from collections.abc import Iterator

import pytest
import redis
from tests.conftest import RedisServer
from tests.producer.conftest import Call
from tests.served_gateway import ServedGateway

from vaefarm_shared import keys
from vaefarm_shared.settings import Settings


@pytest.fixture
def port(settings: Settings) -> Iterator[str]:
    gateway = ServedGateway(settings)
    gateway.start()
    yield str(gateway.port)
    gateway.stop()


def put_worker(connection: redis.Redis, name: str, host: str) -> None:
    connection.set(keys.worker(name), json.dumps({"name": name, "host": host, "vaes": {"demo": "x"}}), ex=30)
    connection.sadd("rq:workers", f"rq:worker:{name}")


def test_a_gateway_lives_before_it_is_ready(
    port: str, connection: redis.Redis, server: RedisServer, vaefarm: Call
) -> None:
    told = {"VAEFARM_LISTEN_HOST": "0.0.0.0", "VAEFARM_LISTEN_PORT": port, "HTTP_PROXY": "http://127.0.0.1:1"}
    alive = vaefarm("health", "gateway", url=server.url, env=told)
    assert (alive.returncode, alive.stdout) == (0, f"http://127.0.0.1:{port}/health: Ok\n")

    waiting = vaefarm("health", "gateway", "--ready", url=server.url, env=told)
    assert waiting.returncode == 1
    assert "503 no worker that lives serves any VAE" in waiting.stderr


def test_a_gateway_that_is_not_there_is_one_line(server: RedisServer, vaefarm: Call) -> None:
    gone = vaefarm("health", "gateway", "--port", "1", url=server.url)
    assert gone.returncode == 1
    assert gone.stderr.startswith("vaefarm: http://127.0.0.1:1/health: ")


def test_a_worker_is_well_while_one_of_this_host_gives_signs_of_life(
    connection: redis.Redis, server: RedisServer, vaefarm: Call
) -> None:
    put_worker(connection, "elsewhere", "another-host")
    none = vaefarm("health", "worker", url=server.url)
    assert (none.returncode, none.stderr.count("\n")) == (1, 1)

    put_worker(connection, "w1", socket.gethostname())
    assert vaefarm("health", "worker", url=server.url).stdout == "w1 serves\n"


def test_the_reaper_is_well_unless_a_lease_is_long_over(
    connection: redis.Redis, server: RedisServer, vaefarm: Call
) -> None:
    now = connection.time()[0]
    connection.zadd(keys.LEASES, {"held": now + 5, "just-over": now - 5})
    assert vaefarm("health", "reaper", url=server.url).returncode == 0

    connection.zadd(keys.LEASES, {"forgotten": now - 20})
    late = vaefarm("health", "reaper", url=server.url)
    assert late.returncode == 1
    assert "1 leases are over" in late.stderr


def test_where_redis_is_away_nobody_is_well(vaefarm: Call) -> None:
    for service in ("worker", "reaper"):
        away = vaefarm("health", service, url="redis://127.0.0.1:1/0")
        assert (away.returncode, away.stderr.count("\n")) == (1, 1)
