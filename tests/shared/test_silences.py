"""Times without an answer: who takes what others have lost holds still for a lease after one."""

from pathlib import Path

import redis
from tests.conftest import RedisServer, eventually

from vaefarm_shared.connection import connect
from vaefarm_shared.silences import Silences


def test_a_redis_that_has_just_begun_may_have_been_away_before(server: RedisServer, tmp_path: Path) -> None:
    own = RedisServer(server.binary, tmp_path)
    own.start()
    try:
        with connect(own.url) as connection:
            assert not Silences(connection, 60.0).are_over()
            silences = Silences(connection, 0.5)
            eventually("a lease has passed since", silences.are_over, seconds=10)
    finally:
        own.stop()


def test_a_lease_must_pass_after_a_silence(connection: redis.Redis) -> None:
    silences = Silences(connection, 1.0)
    eventually("Redis has run for a lease", silences.are_over, seconds=10)
    silences._looked_at -= 5.0

    assert not silences.are_over()
    eventually("a lease has passed since", silences.are_over, seconds=10)
