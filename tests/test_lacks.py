"""A job that needs what not every worker has: it goes to one that has it, undecoded, or fails with what to install."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from tests.conftest import Serve
from tests.served_gateway import ServedGateway

from vaefarm_producer import Farm, InvalidOption, JobFailed
from vaefarm_shared import keys
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.job import MAX_REDIS_BYTES
from vaefarm_shared.queues import SIZE_CLASSES
from vaefarm_shared.settings import Settings
from vaefarm_shared.workers import publish_worker
from vaefarm_worker import lacks
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode

#: 13 frames of 32 x 48 pixels: as a raw tensor 119,808 bytes.
LATENTS = torch.linspace(-1, 1, 16 * 4 * 4 * 6).reshape(1, 16, 4, 4, 6)
TENSOR_BYTES = 2 * 3 * 13 * 32 * 48


class Counting(FakeDecoder):
    """Counts its decodes."""

    decodes = 0

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        self.decodes += 1
        return super().decode(batch, mode=mode)


@pytest.fixture
def fake(settings: Settings) -> Counting:
    return Counting([Catalogue.load(settings.catalogue)["wan"]])


@pytest.fixture
def stored(settings: Settings, tmp_path: Path) -> Settings:
    """A farm with a store outside of Redis."""
    return settings.model_copy(update={"store": f"file://{tmp_path / 'store'}", "store_threshold": 1024})


@pytest.fixture
def small_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that is given no more than a video's file."""
    for module in ("vaefarm_shared.blobs", "vaefarm_worker.lacks"):
        monkeypatch.setattr(f"{module}.MAX_REDIS_BYTES", TENSOR_BYTES - 1)


@pytest.fixture
def farm(stored: Settings) -> Iterator[Farm]:
    with Farm(settings=stored) as farm:
        yield farm


@pytest.fixture
def serve_without_pyav(
    stored: Settings, serve: Serve, fake: Counting, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """A worker that has no PyAV serves until nothing is left that it takes."""

    def run() -> None:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "av", None)
            serve(fake, settings=stored, name="without")

    return run


def say_that_one_lives(connection: redis.Redis, **said: Any) -> None:
    """A worker that says so, and does nothing."""
    publish_worker(
        connection, "other", {"vaes": {"wan": ""}, "sizes": {"wan": [name for name, _ in SIZE_CLASSES]}, **said}
    )
    connection.sadd("rq:workers", "rq:worker:other")


def test_a_worker_without_pyav_decodes_no_video_that_plays(
    farm: Farm, serve_without_pyav: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    mp4, webp = (farm.submit(LATENTS, vae="wan", video_format=name) for name in ("mp4", "webp"))
    others = [farm.submit(LATENTS, vae="wan", video_format="zip"), farm.submit(LATENTS, vae="wan", output_type="pt")]
    serve_without_pyav()

    for job in (mp4, webp):
        with pytest.raises(JobFailed, match=r"pip install 'vaefarm\[video\]'.*; no other worker that lives has it"):
            job.video(timeout=20)
        assert job.record().attempts == 0
    assert [job.status() for job in others] == ["finished", "finished"]
    assert "worker without leaves videos that play to others: a video's file needs PyAV" in caplog.text


def test_another_worker_with_pyav_has_the_video(
    farm: Farm,
    stored: Settings,
    serve: Serve,
    serve_without_pyav: Callable[[], None],
    fake: Counting,
    connection: redis.Redis,
) -> None:
    job = farm.submit(LATENTS, vae="wan")
    say_that_one_lives(connection, lacks=["store"])
    serve_without_pyav()

    assert (job.status(), fake.decodes) == ("queued", 0)
    serve(fake, settings=stored, name="with")
    assert job.video(timeout=20).record.num_frames == 13


def test_a_worker_that_lacks_the_same_is_none_that_could(
    farm: Farm, serve_without_pyav: Callable[[], None], fake: Counting, connection: redis.Redis
) -> None:
    job = farm.submit(LATENTS, vae="wan")
    say_that_one_lives(connection, lacks=["store", "video"])
    serve_without_pyav()

    assert (job.status(), fake.decodes) == ("failed", 0)


@pytest.mark.usefixtures("small_redis")
def test_a_large_tensor_lies_outside_of_redis(farm: Farm, stored: Settings, serve: Serve, fake: Counting) -> None:
    job = farm.submit(LATENTS, vae="wan", output_type="pt")
    serve(fake, settings=stored)

    assert job.tensor(timeout=20).shape == (1, 3, 13, 32, 48)
    (one,) = job.result().report.stored
    assert one.blob.startswith("file:")


@pytest.mark.usefixtures("small_redis")
@pytest.mark.parametrize("other", [True, False])
def test_a_worker_without_that_store_leaves_it_to_one_that_has_it(
    farm: Farm,
    settings: Settings,
    stored: Settings,
    serve: Serve,
    fake: Counting,
    connection: redis.Redis,
    tmp_path: Path,
    other: bool,
) -> None:
    # Its latent is in Redis: a worker without the folder could not read another.
    with Farm(settings=stored.model_copy(update={"store_threshold": 64 * 1024})) as farm:
        job = farm.submit(LATENTS, vae="wan", output_type="pt")
        if other:
            say_that_one_lives(connection)
        serve(fake, settings=settings, name="without")

        assert fake.decodes == 0
        if not other:
            with pytest.raises(JobFailed, match="set VAEFARM_STORE=file:///DIR.*; no other worker that lives has it"):
                job.tensor(timeout=20)
            return
        assert job.status() == "queued"
        serve(fake, settings=stored, name="with")
        assert job.tensor(timeout=20).shape == (1, 3, 13, 32, 48)


@pytest.mark.usefixtures("small_redis")
def test_without_a_store_outside_a_large_tensor_is_refused_at_submit(
    settings: Settings, connection: redis.Redis
) -> None:
    with Farm(settings=settings) as farm, pytest.raises(InvalidOption, match="VAEFARM_STORE=file:///DIR"):
        farm.submit(LATENTS, vae="wan", output_type="pt")

    assert not list(connection.scan_iter(keys.job("*")))


@pytest.mark.slow
def test_49_frames_of_720_x_1280_as_a_raw_tensor_go_through_a_gateway_whose_store_is_a_folder(
    stored: Settings, serve: Serve, fake: Counting
) -> None:
    """258 MiB: more than Redis is given."""
    gateway = ServedGateway(stored, delivers=False)
    gateway.start()
    try:
        with Farm(gateway.url) as farm:
            job = farm.submit(torch.zeros(1, 16, 13, 90, 160, dtype=torch.float16), vae="wan", output_type="pt")
            serve(fake, settings=stored)
            tensor = job.tensor(timeout=60)
    finally:
        gateway.stop()

    assert tensor.shape == (1, 3, 49, 720, 1280)
    assert tensor.nbytes > MAX_REDIS_BYTES


def test_what_a_job_needs_is_told_by_what_it_asks_for(farm: Farm) -> None:
    mp4 = farm.prepare(LATENTS, vae="wan").spec
    frames = farm.prepare(LATENTS, vae="wan", video_format="zip").spec
    raw = farm.prepare(LATENTS, vae="wan", output_type="pt").spec
    large = farm.prepare(torch.zeros(1, 16, 13, 90, 160), vae="wan", output_type="pt").spec

    assert [list(lacks.needs(one)) for one in (mp4, frames, raw, large)] == [["video"], [], [], ["store"]]
