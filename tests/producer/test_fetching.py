"""What came of a job in one round trip: its record, and with it pictures that are not large."""

from collections.abc import Iterator

import numpy as np
import pytest
import redis
from tests.conftest import Serve

from vaefarm_producer import Farm, FarmError, JobExpired, JobFailed, JobNotFound, WaitTimeout
from vaefarm_producer.redis_transport import RedisTransport
from vaefarm_shared import keys, reading
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.records import BlobRecord
from vaefarm_shared.settings import Settings
from vaefarm_worker.fake_decoder import FakeDecoder

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)


class Asking(RedisTransport):
    """Notes which pictures are asked for by themselves."""

    asked: list[str]

    def stored(self, job_id: str, one: BlobRecord) -> bytes:
        self.asked.append(one.blob)
        return super().stored(job_id, one)


@pytest.fixture
def asking(settings: Settings) -> Iterator[Asking]:
    transport = Asking(settings)
    transport.asked = []
    yield transport
    transport.close()


def decode(serve: Serve, image_bytes: int) -> None:
    serve(FakeDecoder([Catalogue.load()["demo"]], image_bytes=image_bytes))


def test_pictures_come_with_their_record_in_their_order(farm: Farm, asking: Asking, serve: Serve) -> None:
    job = farm.submit(np.concatenate([LATENTS, LATENTS + 1, LATENTS + 2]), vae="demo")
    decode(serve, 30_000)

    record, data = asking.fetch(job.id)

    assert asking.asked == []
    assert data == tuple(asking.stored(job.id, one) for one in record.stored)
    assert [len(one) for one in data] == [one.size_bytes for one in record.stored]
    assert len(set(data)) == 3
    assert record == job.record()


def test_pictures_that_are_large_together_are_asked_for_one_by_one(farm: Farm, asking: Asking, serve: Serve) -> None:
    size = reading.FETCHED_BYTES // 3 + 1
    many = farm.submit(np.concatenate([LATENTS, LATENTS + 1, LATENTS + 2]), vae="demo")
    few = farm.submit(np.concatenate([LATENTS, LATENTS + 1]), vae="demo")
    decode(serve, size)

    assert len(asking.fetch(few.id)[1]) == 2
    assert asking.asked == []
    record, data = asking.fetch(many.id)

    assert asking.asked == [one.blob for one in record.stored]
    assert [len(one) for one in data] == [one.size_bytes for one in record.stored]


def test_one_picture_of_several_that_is_gone_is_told_as_expired(
    farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    job = farm.submit(np.concatenate([LATENTS, LATENTS + 1]), vae="demo")
    decode(serve, 1000)
    connection.delete(keys.blob(job.record().stored[1].blob.removeprefix("redis:")))

    with pytest.raises(JobExpired, match="its result is past its life"):
        job.fetch()


@pytest.mark.parametrize("put", [b"x" * 2000, b"x" * 100_000], ids=["more", "much more"])
def test_a_picture_of_more_bytes_than_its_record_says_is_refused(
    farm: Farm, serve: Serve, connection: redis.Redis, put: bytes
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    decode(serve, 1000)
    connection.set(keys.blob(job.record().stored[0].blob.removeprefix("redis:")), put)

    with pytest.raises(FarmError, match="its job allows 1000"):
        job.fetch()


def test_a_job_that_is_unknown_waits_failed_or_left_a_tombstone_has_no_pictures(
    farm: Farm, asking: Asking, serve: Serve, connection: redis.Redis
) -> None:
    with pytest.raises(JobNotFound):
        farm.job("nobody").fetch()
    job = farm.submit(LATENTS, vae="demo")
    assert asking.fetch(job.id)[1] == ()
    with pytest.raises(WaitTimeout, match="it has no result yet"):
        job.fetch()
    decode(serve, 1000)
    connection.hset(keys.job(job.id), mapping={"status": "failed", "reason": "odd"})
    with pytest.raises(JobFailed, match="odd"):
        job.fetch()
    connection.hset(keys.job(job.id), "status", "finished")
    job.discard()
    with pytest.raises(JobExpired, match="discarded"):
        job.fetch()
