"""What an idle worker's claim brings along, and when it begins a job."""

import pytest
import redis
import torch
from tests.conftest import eventually

from vaefarm_producer import Farm
from vaefarm_shared import latents, leases
from vaefarm_shared.leases import ClaimedJob, Source, Wanted
from vaefarm_shared.reaper import Reaper

LATENT = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))


def claim(connection: redis.Redis, latent_bytes: int = 4096, *, begins: bool = True) -> list[ClaimedJob]:
    source = Source("demo", "normal", 0.0, ("s", "m"))
    return leases.claim(connection, "w", Wanted((source,), 8, 1 << 30, 0.2, latent_bytes, begins))


@pytest.mark.redis
def test_a_job_that_comes_alone_begins_with_its_claim_and_brings_its_latent(
    farm: Farm, connection: redis.Redis
) -> None:
    job = farm.submit(LATENT, vae="demo")
    (one,) = claim(connection)
    assert torch.equal(latents.unpack(one.latent).torch(), LATENT)
    assert one.begun == 1
    record = job.record()
    assert (record.status, record.attempts, record.worker) == ("started", 1, "w")


def test_of_several_none_begins_and_latents_come_as_long_as_there_is_room(farm: Farm, connection: redis.Redis) -> None:
    jobs = [farm.submit(LATENT + n, vae="demo") for n in range(3)]
    size = len(latents.pack(latents.from_tensor(LATENT)))
    claimed = claim(connection, 2 * size)
    assert [bool(one.latent) for one in claimed] == [True, True, False]
    assert [one.begun for one in claimed] == [None] * 3
    assert {job.status().value for job in jobs} == {"queued"}


def test_a_latent_that_is_too_large_is_left_where_it_is_and_its_job_does_not_begin(
    farm: Farm, connection: redis.Redis
) -> None:
    job = farm.submit(torch.zeros(1, 4, 32, 32), vae="demo")
    (one,) = claim(connection)
    assert (one.latent, one.begun) == (b"", None)
    assert job.status() == "queued"


def test_a_worker_that_does_not_ask_gets_neither(farm: Farm, connection: redis.Redis) -> None:
    farm.submit(LATENT, vae="demo")
    (one,) = claim(connection, 0, begins=False)
    assert (one.latent, one.begun) == (b"", None)


def test_what_may_come_too_late_or_must_be_alone_begins_when_the_device_has_it(
    farm: Farm, connection: redis.Redis
) -> None:
    late = farm.submit(LATENT, vae="demo", deadline_seconds=60)
    assert [one.begun for one in claim(connection)] == [None]
    assert late.status() == "queued"
    alone = farm.submit(LATENT + 1, vae="demo")
    connection.hset(f"vaefarm:job:{alone.id}", "alone", "1")
    assert [one.begun for one in claim(connection)] == [None]


def test_a_worker_that_never_hears_of_such_a_claim_costs_the_job_no_attempt(
    farm: Farm, connection: redis.Redis
) -> None:
    job = farm.submit(LATENT, vae="demo")
    assert claim(connection)[0].begun == 1
    reaper = Reaper(connection, 0.2, 3)
    reaper.look()
    eventually("its lease ends", lambda: reaper.look() or job.status() == "queued")
    assert job.record().attempts == 0
