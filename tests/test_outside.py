"""Latents and pictures outside of Redis: there as long as a job needs them, and nothing of it afterwards."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from tests.conftest import Serve, StartWorker, eventually
from tests.held_store import HeldStore
from tests.s3_server import BucketStore, FolderStore
from tests.served_gateway import ServedGateway

from vaefarm_producer import Farm, FarmUnavailable, JobConflict, JobFailed, QueueFull
from vaefarm_shared import keys, leases, transitions
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import DecodeError
from vaefarm_shared.settings import Settings
from vaefarm_shared.sweeping import sweep
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode

LATENTS = torch.zeros(1, 4, 8, 8)

#: Above which blobs go outside: less than these latents, and than a picture of them.
THRESHOLD = 100


class Interrupted(FakeDecoder):
    """Does something in the middle of the first decode."""

    def __init__(self, meanwhile: Callable[[Batch], None]) -> None:
        super().__init__([Catalogue.load()["demo"]])
        self._meanwhile: Callable[[Batch], None] | None = meanwhile

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        decoded = super().decode(batch, mode=mode)
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile(batch)
        return decoded


class Failing(FakeDecoder):
    """Decodes nothing."""

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        raise DecodeError("it will not")


@dataclass
class Outside:
    """A farm with a store outside of Redis, and a producer of it."""

    settings: Settings
    farm: Farm
    store: FolderStore | BucketStore

    @property
    def kinds(self) -> list[str]:
        """What lies there: latents and images."""
        return sorted("latent" if "latent" in name else "image" for name in self.store.names())


@contextmanager
def away(bucket: BucketStore) -> Iterator[None]:
    """Have the store answer nobody."""
    bucket.server.stop()
    try:
        yield
    finally:
        bucket.server.start()


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Have a thread do something meanwhile, which must succeed."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result(timeout=30)


@pytest.fixture
def stored(settings: Settings, outside: FolderStore | BucketStore) -> Iterator[Outside]:
    """A farm over Redis."""
    chosen = settings.model_copy(update={"store": outside.url, "store_threshold": THRESHOLD})
    with Farm(settings=chosen) as farm:
        yield Outside(chosen, farm, outside)


@pytest.fixture
def in_bucket(settings: Settings, bucket: BucketStore) -> Iterator[Outside]:
    """A farm over Redis, with a bucket."""
    chosen = settings.model_copy(update={"store": bucket.url, "store_threshold": THRESHOLD})
    with Farm(settings=chosen) as farm:
        yield Outside(chosen, farm, bucket)


@pytest.fixture(params=["redis", "http"])
def either(request: pytest.FixtureRequest, stored: Outside) -> Iterator[Outside]:
    """The same over Redis, and over a gateway."""
    if request.param == "redis":
        yield stored
        return
    gateway = ServedGateway(stored.settings)
    gateway.start()
    with Farm(settings=stored.settings.at("redis://127.0.0.1:1/0").at(gateway.url)) as farm:
        yield Outside(stored.settings, farm, stored.store)
    gateway.stop()


def test_latents_and_pictures_lie_outside_while_they_are_needed_and_not_longer(either: Outside, serve: Serve) -> None:
    job = either.farm.submit(LATENTS, vae="demo")
    assert either.kinds == ["latent"]
    serve(settings=either.settings)

    result = job.result(timeout=10)

    assert either.kinds == ["image"], "the latent went with the settle"
    assert list(either.store.contents().values()) == [result.data[0]]
    job.discard()
    assert either.store.contents() == {}
    assert job.status() == "expired"


def test_what_is_canceled_leaves_nothing(either: Outside, serve: Serve) -> None:
    one, *others = either.farm.submit_many([LATENTS + n for n in range(4)], vae="demo")
    assert either.kinds == ["latent"] * 4
    assert one.cancel()
    assert either.kinds == ["latent"] * 3
    either.farm.cancel_many(others)
    assert either.store.contents() == {}


def test_what_is_canceled_in_the_middle_of_its_decode_leaves_nothing(either: Outside, serve: Serve) -> None:
    job = either.farm.submit(LATENTS, vae="demo")

    def cancel(_: Batch) -> None:
        assert job.cancel()

    serve(Interrupted(cancel), settings=either.settings)
    assert job.status() == "canceled"
    assert either.store.contents() == {}


def test_what_expires_before_its_decode_leaves_nothing(stored: Outside, serve: Serve) -> None:
    job = stored.farm.submit(LATENTS, vae="demo", deadline_seconds=0.01)
    time.sleep(0.02)
    serve(settings=stored.settings)
    assert job.status() == "expired"
    assert stored.store.contents() == {}


def test_what_failed_keeps_its_latent_for_a_retry_and_leaves_nothing_after_it(either: Outside, serve: Serve) -> None:
    job = either.farm.submit(LATENTS, vae="demo")
    serve(Failing([Catalogue.load()["demo"]]), settings=either.settings)
    with pytest.raises(JobFailed):
        job.result(timeout=5)
    assert either.kinds == ["latent"]
    assert job.retry()
    serve(settings=either.settings)
    assert job.image(timeout=5).size == (64, 64)
    assert either.kinds == ["image"]
    job.discard()
    assert either.store.contents() == {}


def test_a_failed_job_that_is_discarded_leaves_nothing(stored: Outside, serve: Serve) -> None:
    job = stored.farm.submit(LATENTS, vae="demo")
    serve(Failing([Catalogue.load()["demo"]]), settings=stored.settings)
    job.discard()
    assert stored.store.contents() == {}


def test_a_worker_that_lost_its_lease_deletes_its_own_picture_and_no_other(
    stored: Outside, connection: redis.Redis, serve: Serve
) -> None:
    def lose(batch: Batch) -> None:
        connection.zadd(keys.LEASES, {one.spec.id: 0 for one in batch.items})
        assert len(leases.reap(connection, 3)) == 1

    job = stored.farm.submit(LATENTS, vae="demo")
    serve(Interrupted(lose), settings=stored.settings)
    result = job.result(timeout=5)
    assert list(stored.store.contents().values()) == [result.data[0]]
    assert result.report.images[0].blob.partition(":")[2].replace(":", "/") in next(
        name.replace("image-", "image/") for name in stored.store.contents()
    )


def test_a_submit_that_is_refused_or_there_already_leaves_no_second_latent(either: Outside) -> None:
    job = either.farm.submit(LATENTS, vae="demo", job_id="mine")
    kept = either.store.contents()
    assert either.farm.submit(LATENTS, vae="demo", job_id="mine").id == job.id
    with pytest.raises(JobConflict):
        either.farm.submit(LATENTS + 1, vae="demo", job_id="mine")
    assert either.store.contents() == kept


def test_a_submit_that_a_full_farm_refuses_leaves_no_latent(stored: Outside) -> None:
    with Farm(settings=stored.settings.model_copy(update={"max_queued_jobs": 2})) as farm, pytest.raises(QueueFull):
        farm.submit_many([LATENTS + n for n in range(4)], vae="demo")
    assert stored.kinds == ["latent"] * 2


def test_a_job_that_is_submitted_anew_keeps_its_latent_whoever_deletes_the_former_one_late(
    stored: Outside, serve: Serve
) -> None:
    first = stored.farm.submit(LATENTS, vae="demo", job_id="mine")
    (former,) = stored.store.contents()
    first.cancel()
    stored.farm.submit(LATENTS, vae="demo", job_id="mine")
    assert former not in stored.store.contents()
    serve(settings=stored.settings)
    assert stored.farm.job("mine").image(timeout=5).size == (64, 64)


def test_the_sweep_keeps_what_jobs_need_and_takes_what_is_left_of_ended_ones(
    stored: Outside, connection: redis.Redis, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, failed = stored.farm.submit_many([LATENTS, LATENTS + 1], vae="demo")
    latents = [str(connection.hget(keys.job(job.id), "latent"), "utf-8") for job in (finished, failed)]  # type: ignore[arg-type]
    stored.farm.job(failed.id).cancel()
    serve(settings=stored.settings)
    failed = stored.farm.submit(LATENTS + 1, vae="demo", job_id=failed.id)
    serve(Failing([Catalogue.load()["demo"]]), settings=stored.settings)
    queued = stored.farm.submit(LATENTS + 2, vae="demo")
    needed = stored.store.contents()
    blobs = BlobStore(connection, stored.store.url, THRESHOLD)
    # As if a worker had died before it could remove them.
    assert blobs.outside is not None
    blobs.outside.put_many([(reference.partition(":")[2], b"left") for reference in latents])
    monkeypatch.setattr("vaefarm_shared.blobs.UNNAMED_SECONDS", -60.0)

    connection.delete(keys.SWEEPING)
    assert sweep(connection, blobs) == 2
    assert stored.store.contents() == needed
    assert [job.status().value for job in (finished, failed, queued)] == ["finished", "failed", "queued"]
    connection.delete(keys.job(finished.id))
    # A bucket is listed once in a while by one worker of all.
    assert sweep(connection, blobs) == (0 if stored.store.scheme == "s3" else 1)
    connection.delete(keys.SWEEPING)
    sweep(connection, blobs)
    assert stored.kinds == ["latent", "latent"]
    blobs.close()


def test_the_sweep_keeps_pictures_that_a_worker_could_not_settle_yet(
    stored: Outside, connection: redis.Redis, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However old they are: Redis may have been away, or full, for hours."""
    job = stored.farm.submit(LATENTS, vae="demo")
    blobs = BlobStore(connection, stored.store.url, THRESHOLD)
    monkeypatch.setattr("vaefarm_shared.blobs.UNNAMED_SECONDS", -60.0)
    settle, swept = transitions.settle, list[int]()

    def settle_late(*arguments: Any) -> list[bool]:
        connection.delete(keys.SWEEPING)
        swept.append(sweep(connection, blobs))
        return settle(*arguments)

    monkeypatch.setattr(transitions, "settle", settle_late)
    serve(settings=stored.settings)
    assert swept == [0]
    assert job.image(timeout=5).size == (64, 64)
    # One of a worker that lost the job is nobody's.
    assert blobs.outside is not None
    blobs.outside.put(f"image:{job.id}.other.0", b"left")
    connection.delete(keys.SWEEPING)
    assert sweep(connection, blobs) == 1
    blobs.close()


def test_a_worker_without_the_store_hands_its_jobs_back(stored: Outside, serve: Serve) -> None:
    """It would be the fastest of the farm otherwise, and fail everything."""
    elsewhere = stored.settings.model_copy(update={"store": f"{stored.store.url}/elsewhere"})
    jobs = stored.farm.submit_many([LATENTS + n for n in range(3)], vae="demo")
    serve(name="without")
    serve(settings=elsewhere, name="elsewhere")
    assert {job.status().value for job in jobs} == {"queued"}
    assert {job.record().attempts for job in jobs} == {0}
    place = {"file": "folder", "s3": "bucket"}[stored.store.scheme]
    assert f"is not in this worker's {place}" in str(jobs[0].record().last_error)

    serve(settings=stored.settings, name="with")

    assert {job.status().value for job in jobs} == {"finished"}


def test_a_store_that_is_away_as_latents_are_read_costs_no_job_and_no_attempt(
    in_bucket: Outside, bucket: BucketStore, serve: Serve
) -> None:
    jobs = in_bucket.farm.submit_many([LATENTS + n for n in range(5)], vae="demo")
    bucket.server.stop()

    def come_back() -> None:
        said = "the store does not answer (get_object: EndpointConnectionError)"
        eventually("it was handed back", lambda: said in str(jobs[0].record().last_error))
        bucket.server.start()

    with beside(come_back):
        serve(settings=in_bucket.settings)
    assert [(job.record().status.value, job.record().attempts) for job in jobs] == [("finished", 1)] * 5
    assert in_bucket.kinds == ["image"] * 5


def test_a_store_that_is_away_as_pictures_are_written_costs_no_job_and_no_attempt(
    in_bucket: Outside, bucket: BucketStore, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = in_bucket.farm.submit_many([LATENTS + n for n in range(5)], vae="demo")

    def come_back() -> None:
        said = "the store is away or full, once more in"
        eventually("it was tried", lambda: any(said in line for line in list(caplog.messages)))
        bucket.server.start()

    with beside(come_back):
        serve(Interrupted(lambda _: bucket.server.stop()), settings=in_bucket.settings)
    assert [(job.record().status.value, job.record().attempts) for job in jobs] == [("finished", 1)] * 5
    assert set(in_bucket.kinds) == {"image"}
    for job in jobs:
        job.discard()
    assert in_bucket.store.contents() == {}


def test_a_submit_waits_for_a_store_that_is_away_and_says_so_when_it_gives_up(
    in_bucket: Outside, bucket: BucketStore
) -> None:
    bucket.server.stop()
    hurried = in_bucket.settings.model_copy(update={"submit_timeout": 0.1})
    with Farm(settings=hurried) as farm, pytest.raises(FarmUnavailable, match="the store does not answer"):
        farm.submit(LATENTS, vae="demo")
    with beside(bucket.server.start):
        job = in_bucket.farm.submit(LATENTS, vae="demo")
    assert job.status() == "queued"
    assert in_bucket.kinds == ["latent"]


def test_a_discard_while_the_store_is_away_takes_effect_and_the_rest_is_swept(
    in_bucket: Outside,
    bucket: BucketStore,
    serve: Serve,
    connection: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = in_bucket.farm.submit(LATENTS, vae="demo")
    serve(settings=in_bucket.settings)
    with away(bucket):
        job.discard()
        assert job.status() == "expired"
    assert in_bucket.kinds == ["image"]
    blobs = BlobStore(connection, bucket.url, THRESHOLD)
    monkeypatch.setattr("vaefarm_shared.blobs.UNNAMED_SECONDS", -60.0)
    connection.delete(keys.SWEEPING)
    assert sweep(connection, blobs) == 1
    assert bucket.contents() == {}
    blobs.close()


def test_a_submit_is_spooled_while_the_store_is_away_and_sent_when_it_is_back(
    in_bucket: Outside, bucket: BucketStore, tmp_path: Path, serve: Serve
) -> None:
    with Farm(settings=in_bucket.settings.model_copy(update={"spool": str(tmp_path / "spool")})) as farm:
        with away(bucket):
            job = farm.submit(LATENTS, vae="demo")
            assert job.status() == "spooled"
        farm.flush(timeout=30)
        assert job.status() == "queued"
    serve(settings=in_bucket.settings)
    assert in_bucket.farm.job(job.id).image(timeout=5).size == (64, 64)
    assert in_bucket.kinds == ["image"]


@pytest.mark.slow
def test_a_worker_that_stops_leaves_a_store_that_hangs_and_another_finishes_its_job(
    settings: Settings, held_store: HeldStore, start_worker: StartWorker, serve: Serve
) -> None:
    stored = settings.model_copy(update={"store": "s3://bucket/farm", "store_threshold": THRESHOLD})
    environment = {
        "VAEFARM_STORE": stored.store,
        "VAEFARM_STORE_THRESHOLD": str(THRESHOLD),
        "VAEFARM_DRAIN_SECONDS": "1",
    }
    worker = start_worker("--decoder", "fake", "--fake-seconds", "1", env=environment)
    with Farm(settings=stored) as farm:
        job = farm.submit(LATENTS, vae="demo")
        eventually("its decode began", lambda: job.status() == "started")
        held_store.let.clear()
        eventually("its picture is being written", lambda: held_store.asked)
        worker.process.terminate()
        # Less than the thirty seconds for which a request may take.
        assert worker.process.wait(15) == 0
        held_store.let.set()
        eventually("its worker gave it up", lambda: job.status() == "queued")
        serve(settings=stored)
        assert job.image(timeout=5).size == (64, 64)
        assert job.record().attempts == 1


@pytest.mark.slow
def test_a_worker_process_decodes_from_a_bucket_into_it(
    in_bucket: Outside, bucket: BucketStore, start_worker: StartWorker
) -> None:
    environment = bucket.server.environment | {"VAEFARM_STORE": bucket.url, "VAEFARM_STORE_THRESHOLD": str(THRESHOLD)}
    start_worker("--decoder", "fake", env=environment)
    jobs = in_bucket.farm.submit_many([LATENTS + n for n in range(20)], vae="demo")
    done = [job.id for job in in_bucket.farm.as_completed(jobs, timeout=60)]
    assert len(done) == 20
    eventually("the latents went", lambda: in_bucket.kinds == ["image"] * 20)
