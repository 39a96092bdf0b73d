"""The budget counts what jobs hold, and comes right again when somebody's hand was in it."""

import io
from typing import Any

import numpy as np
import pytest
import redis
import torch
from PIL import Image
from rq.utils import as_text
from tests.conftest import Serve

from vaefarm_producer import Farm, QueueFull
from vaefarm_shared import budget, keys
from vaefarm_shared.budget import picture_bytes, read_limits
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import HostTensor
from vaefarm_shared.scripts import script
from vaefarm_shared.settings import Settings
from vaefarm_worker.decoder import Decoded
from vaefarm_worker.encode import encode_image, encoded_files

LATENTS = torch.zeros(1, 4, 8, 8)


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate(
        {"id": "a", "vae": "demo", "dtype": "float32", "shape": (1, 4, 32, 32), "layout": "spatial", "count": 1}
        | {"height": 256, "width": 256, "request_hash": "h"}
        | fields
    )


FORMATS = [
    {"image_format": "png"},
    {"image_format": "jpeg"},
    {"image_format": "jpeg", "quality": 95},
    {"image_format": "jpeg", "quality": 100},
    {"image_format": "webp"},
    {"image_format": "webp", "quality": 100},
    {"image_format": "webp", "lossless": True},
]


@pytest.mark.parametrize("fields", FORMATS, ids=str)
def test_no_picture_is_larger_than_the_room_that_is_reserved_for_it(fields: dict[str, object]) -> None:
    """Noise in each channel is what codecs make largest."""
    wanted = spec(**fields)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)

    data = encode_image(noise, wanted)

    assert Image.open(io.BytesIO(data)).size == (256, 256)
    assert len(data) <= picture_bytes(wanted)


def test_no_raw_tensor_is_larger_than_the_room_that_is_reserved_for_it() -> None:
    wanted = spec(output_type="pt", count=3)
    tensor = HostTensor(np.zeros(wanted.tensor_shape, np.float16), "float16")

    (data,) = encoded_files(Decoded(None, "float16", tensor=tensor), wanted)

    assert picture_bytes(wanted) - 4096 <= len(data) <= picture_bytes(wanted)


def test_the_limit_is_a_share_of_maxmemory_unless_it_is_given(connection: redis.Redis) -> None:
    assert read_limits(connection, None, 5).max_bytes == 2 * 1024**3
    connection.config_set("maxmemory", 1_000_000_000)
    try:
        assert read_limits(connection, None, 5).max_bytes == 600_000_000
        assert read_limits(connection, 7, 5) == budget.Limits(7, 5)
    finally:
        connection.config_set("maxmemory", 0)


@pytest.mark.redis
def test_the_counter_follows_a_job_through_its_life_to_nothing(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    def counted() -> dict[Any, Any]:
        return connection.hgetall(keys.BUDGET)

    job = farm.submit(LATENTS, vae="demo", result_seconds=1)
    canceled = farm.submit(LATENTS, vae="demo")
    assert int(counted()[b"jobs"]) == 2
    assert int(counted()[b"bytes"]) > 2 * LATENTS.numel() * 4
    canceled.cancel()
    serve()
    assert counted() == {b"jobs": b"0", b"bytes": str(job.record().report.images[0].size_bytes).encode()}  # type: ignore[union-attr]

    [kept] = connection.zrange(keys.KEPT, 0, -1)
    connection.zadd(keys.KEPT, {as_text(kept): 0.0})  # type: ignore[arg-type]
    assert script("expire_kept").run(connection, 100) == 1

    assert counted() == {b"jobs": b"0", b"bytes": b"0"}
    assert script("expire_kept").run(connection, 100) == 0, "once and no more"


def test_too_many_jobs_are_refused_with_a_wait(settings: Settings, connection: redis.Redis) -> None:
    with Farm(settings=settings.model_copy(update={"max_queued_jobs": 3})) as farm:
        with pytest.raises(QueueFull, match="holds 3 of at most 3 jobs; try again in") as refused:
            farm.submit_many([LATENTS + n for n in range(5)], vae="demo")

        assert refused.value.retry_after_seconds > 0
        assert connection.llen("rq:queue:vaefarm.demo.normal.s.default") == 3
        assert len(list(connection.scan_iter("vaefarm:latent:*"))) == 3, "the refused left nothing"


@pytest.mark.parametrize("drift", [10 * budget.DRIFT_BYTES, -10 * budget.DRIFT_BYTES])
def test_a_counter_that_somebody_moved_is_put_right(farm: Farm, connection: redis.Redis, drift: int) -> None:
    farm.submit_many([LATENTS + n for n in range(5)], vae="demo")
    right = connection.hget(keys.BUDGET, "bytes")
    assert budget.repair(connection) == 0
    connection.delete(keys.REPAIRING)
    connection.hincrby(keys.BUDGET, "bytes", drift)

    assert budget.repair(connection) == drift

    assert connection.hget(keys.BUDGET, "bytes") == right


def test_repairs_that_meet_correct_a_drift_once(farm: Farm, connection: redis.Redis) -> None:
    farm.submit(LATENTS, vae="demo")
    connection.hincrby(keys.BUDGET, "bytes", 10 * budget.DRIFT_BYTES)

    assert [budget.repair(connection) for _ in range(3)] == [10 * budget.DRIFT_BYTES, 0, 0]
