"""A Redis that answers and takes no writes for now, as in a failover or with a full disk: it is as one that is away."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
import torch
from tests.conftest import Serve, eventually
from tests.test_outside import Interrupted, beside

from vaefarm_producer import Farm
from vaefarm_shared.settings import Settings
from vaefarm_shared.silences import Silences


@pytest.fixture(autouse=True)
def takes_scripts_writes(connection: redis.Redis) -> None:
    if str(connection.info("server")["redis_version"]).startswith("6."):
        pytest.skip("before Redis 7 a script writes whatever replicas there are")


@contextmanager
def no_writes(connection: redis.Redis) -> Iterator[None]:
    """Have Redis want a replica, which there is not."""
    connection.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        connection.config_set("min-replicas-to-write", 0)


def test_what_was_decoded_is_settled_once_writes_are_taken_again(
    farm: Farm, settings: Settings, connection: redis.Redis, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    patient = settings.model_copy(update={"lease_seconds": 60.0})
    job = farm.submit(torch.zeros(1, 4, 8, 8), vae="demo")
    refused = no_writes(connection)

    def come_back() -> None:
        said = "the store is away or full, once more in"
        try:
            eventually(
                "a settle was refused",
                lambda: any(said in line and "NOREPLICAS" in line for line in list(caplog.messages)),
                seconds=20,
            )
        finally:
            refused.__exit__(None, None, None)

    with beside(come_back):
        serve(Interrupted(lambda _: refused.__enter__()), settings=patient)

    assert (job.status(), job.record().attempts) == ("finished", 1)


def test_such_a_time_is_a_silence_in_which_nobody_could_renew(connection: redis.Redis) -> None:
    silences = Silences(connection, 1.0)
    eventually("Redis has run for a lease", silences.are_over, seconds=10)
    looked_at = silences._looked_at

    with no_writes(connection), pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        silences.are_over()

    assert silences._looked_at == looked_at
