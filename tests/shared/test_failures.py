"""Failed jobs: each listed once with its reason, and put back by a retry."""

from typing import Any

import numpy as np
import pytest
import redis
from tests.conftest import Serve

from vaefarm_producer import Farm, JobExpired, JobNotFound
from vaefarm_shared import failures, keys
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.reading import named_blobs
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode

BAD = np.full((1, 4, 8, 8), 7.0, np.float32)
GOOD = np.zeros((1, 4, 8, 8), np.float32)


class BrokenDecoder(FakeDecoder):
    """Raises for every latent that begins with 7."""

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        if any(item.latents.array.flat[0] == 7 for item in batch.items):
            raise RuntimeError("the kernel did not like it")
        return super().decode(batch)


@pytest.fixture
def broken() -> BrokenDecoder:
    return BrokenDecoder([entry for entry in Catalogue.load() if entry.contract])


def test_failed_jobs_are_listed_by_vae_with_reason_attempts_and_time(
    farm: Farm, connection: redis.Redis, serve: Serve, broken: BrokenDecoder
) -> None:
    farm.submit(BAD, vae="demo", job_id="a"), farm.submit(BAD, vae="sdxl", job_id="b"), farm.submit(GOOD, vae="demo")
    serve(broken)

    found = {job.id: job for job in failures.read_failed(connection)}

    assert {job_id: (job.vae, job.reason, job.attempts) for job_id, job in found.items()} == {
        "a": ("demo", "RuntimeError: the kernel did not like it", 3),
        "b": ("sdxl", "RuntimeError: the kernel did not like it", 3),
    }
    assert found["a"].ended_at == farm.job("a").record().ended_at
    assert [job.id for job in failures.read_failed(connection, "sdxl")] == ["b"]


def test_more_than_a_page_of_failed_jobs_are_each_listed_once(
    farm: Farm, connection: redis.Redis, serve: Serve, broken: BrokenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "PAGE", 7)
    jobs = farm.submit_many([BAD] * 300, vae="demo")
    for job in jobs:
        connection.hset(f"vaefarm:job:{job.id}", "status", "failed")
        connection.zadd("rq:failed:vaefarm.demo.normal.s.default", {job.id: 2e9})

    found = [job.id for job in failures.read_failed(connection)]

    assert sorted(found) == sorted(job.id for job in jobs)


def test_an_entry_whose_record_is_gone_or_garbled_hides_no_other(farm: Farm, connection: redis.Redis) -> None:
    farm.submit(GOOD, vae="demo", job_id="bad"), farm.submit(GOOD, vae="demo", job_id="waiting")
    garbled: dict[Any, Any] = {"status": "failed", "reason": b"\xff", "attempts": "many", "ended_at": "yesterday"}
    connection.hset("vaefarm:job:bad", mapping=garbled)
    connection.zadd("rq:failed:vaefarm.demo.normal.s.default", {"gone": 2e9, "waiting": 2e9, "bad": 2e9})

    (found,) = failures.read_failed(connection)

    assert found == failures.FailedJob("bad", "demo", "\N{REPLACEMENT CHARACTER}", 0, None)


def test_a_retried_job_is_decoded_from_the_latent_that_was_kept(
    farm: Farm, connection: redis.Redis, serve: Serve, broken: BrokenDecoder
) -> None:
    job = farm.submit(BAD, vae="demo")
    serve(broken)

    assert failures.retry(connection, job.id)

    assert job.status() == "queued"
    assert list(failures.read_failed(connection)) == []
    serve()
    assert (job.status(), job.record().attempts) == ("finished", 1)
    assert not failures.retry(connection, job.id), "what has not failed is not retried"


def test_a_job_that_is_unknown_or_whose_latent_is_gone_is_not_retried_and_says_so(
    farm: Farm, connection: redis.Redis, serve: Serve, broken: BrokenDecoder
) -> None:
    job = farm.submit(BAD, vae="demo")
    serve(broken)
    connection.delete(*connection.scan_iter("vaefarm:latent:*"))

    with pytest.raises(JobExpired, match="its latent is gone; submit it again"):
        job.retry()
    with pytest.raises(JobNotFound, match="'nobody' is not known"):
        farm.job("nobody").retry()
    assert job.status() == "failed"


def test_a_record_that_nobody_can_read_keeps_its_blobs_and_no_others(connection: redis.Redis) -> None:
    connection.hset(keys.job("garbled"), mapping={"report": b"\xff{", "status": "finished"})
    connection.hset(keys.job("cut"), mapping={"report": '{"images": [', "status": "finished"})
    names = [f"file:image:{job}.token.0" for job in ("garbled", "cut", "nobody")]
    assert named_blobs(connection, names) == [True, True, False]
