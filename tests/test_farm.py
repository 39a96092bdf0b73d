"""A job's life through `Farm`, over each transport, on a real redis-server, with a worker that runs our real loop."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
import redis
import torch
from PIL import Image
from tests.conftest import Serve, eventually

from vaefarm_producer import (
    AsyncFarm,
    Farm,
    InvalidInput,
    InvalidJobId,
    InvalidLatents,
    InvalidOption,
    JobCanceled,
    JobConflict,
    JobExpired,
    JobFailed,
    JobNotFound,
    UnknownVae,
    WaitTimeout,
)
from vaefarm_shared import keys
from vaefarm_shared.catalogue import Catalogue, Contract
from vaefarm_shared.job import JobStatus
from vaefarm_shared.settings import Settings
from vaefarm_worker import device
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.memory_mode import MemoryMode

LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def farm(farm_settings: Settings) -> Iterator[Farm]:
    """A farm over Redis, and over a gateway."""
    with Farm(settings=farm_settings) as one:
        yield one


@pytest.mark.redis
def test_latents_become_pictures_under_their_job_id(farm: Farm, farm_settings: Settings, serve: Serve) -> None:
    latents = torch.cat([LATENTS, -LATENTS])

    job = farm.submit(latents, vae="sd-v1", metadata={"prompt": "a cat"})
    assert job.status() == "queued"
    serve(LocalDecoder([Catalogue.load(farm_settings.catalogue)["sd-v1"]], "cpu"))

    with Farm(settings=farm_settings) as elsewhere:
        result = elsewhere.job(job.id).result(timeout=10)
    assert [image.size for image in result.images] == [(64, 64), (64, 64)]
    assert not np.array_equal(np.asarray(result.images[0]), np.asarray(result.images[1]))
    record, report = result.record, result.report
    assert (record.status, record.attempts, record.worker, record.metadata) == (
        "finished",
        1,
        "here",
        {"prompt": "a cat"},
    )
    assert (report.vae, report.dtype, report.attempt, report.worker) == ("sd-v1", "float32", 1, "here")
    assert report.revision.startswith("sha256:")
    assert report.seconds_queued > 0
    assert report.seconds_decode > 0
    assert report.seconds_encode > 0


@pytest.mark.parametrize(("image_format", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_the_picture_comes_in_the_format_asked_for(farm: Farm, serve: Serve, image_format: str, name: str) -> None:
    job = farm.submit(LATENTS, vae="demo", image_format=image_format)
    serve()

    assert job.image(timeout=10).format == name


def test_packed_and_unpacked_latents_of_one_vae_share_a_worker(farm: Farm, settings: Settings, serve: Serve) -> None:
    packed = farm.submit(torch.zeros(1, 16, 64), vae="flux", height=64, width=64)
    spatial = farm.submit(torch.zeros(1, 16, 8, 8), vae="flux")
    serve(LocalDecoder([Catalogue.load(settings.catalogue)["flux"]], "cpu"))

    assert np.array_equal(np.asarray(packed.image(10)), np.asarray(spatial.image(10)))


def test_numpy_latents_are_taken_too(farm: Farm, serve: Serve) -> None:
    arrays, tensors = farm.submit(LATENTS.numpy(), vae="demo"), farm.submit(LATENTS, vae="demo")
    serve()

    assert np.array_equal(np.asarray(arrays.image(10)), np.asarray(tensors.image(10)))


def test_higher_priorities_are_decoded_first(farm: Farm, serve: Serve) -> None:
    # Of three shapes: jobs of one would share a batch.
    shapes = {"low": (8, 8), "normal": (8, 16), "high": (16, 8)}
    jobs = {name: farm.submit(torch.zeros(1, 4, *shape), vae="demo", priority=name) for name, shape in shapes.items()}
    serve()

    started = {priority: job.record().started_at or 0.0 for priority, job in jobs.items()}
    assert started["high"] < started["normal"] < started["low"]


REFUSED = [
    (torch.zeros(1, 16, 8, 8), {}, InvalidLatents, "16 channels"),
    (torch.zeros(4, 8, 8), {}, InvalidLatents, "rank 3"),
    (torch.zeros(1, 4, 8, 8, dtype=torch.int64), {}, InvalidLatents, "int64"),
    (torch.full((1, 4, 8, 8), float("nan")), {}, InvalidLatents, "NaN or Inf"),
    (torch.full((1, 4, 8, 8), float("inf")), {}, InvalidLatents, "NaN or Inf"),
    (torch.zeros(1, 4, 0, 8), {}, InvalidLatents, "no empty dimension"),
    (torch.zeros(1, 4, 1, 1).expand(1, 4, 4096, 4096), {}, InvalidLatents, "at most 16777216"),
    (torch.zeros(1, 4096, 64), {"vae": "flux"}, InvalidLatents, "height and width"),
    (torch.zeros(1, 4096, 64), {"vae": "flux", "height": 512, "width": 512}, InvalidLatents, "32 x 32 = 1024"),
    (LATENTS, {"vae": "sd4"}, UnknownVae, "expected one of auraflow"),
    (LATENTS, {"vae": None}, UnknownVae, "expected one of auraflow"),
    (LATENTS, {"job_id": "a b"}, InvalidJobId, "'a b'"),
    (LATENTS, {"job_id": "a--b"}, InvalidJobId, "'a--b'"),
    (LATENTS, {"image_format": "gif"}, InvalidOption, "image_format='gif'"),
    (LATENTS, {"quality": 0}, InvalidOption, "quality=0"),
    (LATENTS, {"lossless": True}, InvalidOption, "lossless is for"),
    (LATENTS, {"priority": "urgent"}, InvalidOption, "priority='urgent'"),
    (LATENTS, {"producer": "a.b"}, InvalidOption, "producer"),
    (LATENTS, {"deadline_seconds": -1}, InvalidOption, "deadline_seconds"),
    (LATENTS, {"metadata": {"a": "x" * 20_000}}, InvalidOption, "metadata has more"),
    (LATENTS, {"metadata": {"a": 7}}, InvalidOption, "metadata"),
    (LATENTS, {"qualty": 90}, InvalidOption, "'qualty' is not known"),
    (LATENTS, {"image_format": "webp", "vae": "huge"}, InvalidOption, "16383"),
    ("latents.pt", {}, InvalidLatents, "str"),
]


@pytest.mark.parametrize(("latents", "options", "error", "named"), REFUSED)
def test_bad_input_is_named_and_nothing_is_queued(
    farm: Farm, connection: redis.Redis, latents: object, options: dict, error: type[InvalidInput], named: str
) -> None:
    if options.get("vae") == "huge":
        wide = Contract(latent_channels=4, spatial_scale=8, max_pixels=1 << 40)
        connection.set(keys.contract("huge"), wide.model_dump_json())
        latents = torch.zeros(1, 4, 1, 2048)
    before = connection.keys()

    with pytest.raises(error, match=named):
        farm.submit(latents, **({"vae": "demo"} | options))

    assert connection.keys() == before


def test_one_bad_latent_among_many_is_named_by_its_place_and_none_is_queued(
    farm: Farm, connection: redis.Redis
) -> None:
    with pytest.raises(InvalidLatents, match="latents 1: .*NaN"):
        farm.submit_many([LATENTS, LATENTS * float("nan"), LATENTS], vae="demo")

    assert connection.keys() == []


def test_many_are_submitted_in_order_each_a_job_of_its_own(farm: Farm, serve: Serve) -> None:
    jobs = farm.submit_many([LATENTS * n for n in range(1, 6)], vae="demo", job_ids=[f"j{n}" for n in range(1, 6)])
    serve()

    assert [job.id for job in jobs] == ["j1", "j2", "j3", "j4", "j5"]
    starts = [job.record().started_at or 0.0 for job in jobs]
    assert starts == sorted(starts)


def test_a_job_that_comes_while_others_are_about_to_begin_waits_for_them(
    farm: Farm, connection: redis.Redis, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[JobStatus] = []

    begin = device.begin

    def slowly(*args: Any, **options: Any) -> Any:
        if not seen:
            late = farm.submit(LATENTS * 3, vae="demo", job_id="late")
            eventually("it is claimed", lambda: connection.exists(keys.lease("late")))
            seen.append(late.status())
        return begin(*args, **options)

    monkeypatch.setattr(device, "begin", slowly)
    farm.submit_many([LATENTS, LATENTS * 2], vae="demo")
    serve()

    assert seen == ["queued"]


@pytest.mark.redis
def test_the_same_id_and_content_is_one_job_at_every_stage(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    first = farm.submit(LATENTS, vae="demo", job_id="order-17")
    again = farm.submit(LATENTS, vae="demo", job_id="order-17", priority="high")
    assert first == again
    assert connection.llen("rq:queue:vaefarm.demo.normal.s.default") == 1
    assert connection.llen("rq:queue:vaefarm.demo.high.s.default") == 0

    serve()
    finished = first.record()
    assert farm.submit(LATENTS, vae="demo", job_id="order-17").status() == "finished"
    assert first.record() == finished


def test_the_same_id_with_other_content_is_a_conflict_and_changes_nothing(farm: Farm, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo", job_id="order-17")

    with pytest.raises(JobConflict, match="'order-17' was used for other latents"):
        farm.submit(LATENTS + 1, vae="demo", job_id="order-17")
    with pytest.raises(JobConflict):
        farm.submit(LATENTS, vae="demo", job_id="order-17", image_format="jpeg")

    serve()
    other = farm.submit(LATENTS, vae="demo")
    serve()
    assert np.array_equal(np.asarray(job.image(10)), np.asarray(other.image(10)))


def test_a_canceled_job_is_never_decoded_and_its_id_may_start_anew(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    job = farm.submit(LATENTS, vae="demo", job_id="a")

    assert job.cancel()
    assert job.cancel(), "canceling again is no error"
    serve()

    assert job.status() == "canceled"
    assert not list(connection.scan_iter("vaefarm:latent:*")), "its latent went"
    with pytest.raises(JobCanceled):
        job.result(timeout=5)
    assert farm.submit(LATENTS, vae="demo", job_id="a").status() == "queued"
    serve()
    assert job.status() == "finished"
    assert not job.cancel(), "what has finished is not canceled"


class CancelingDecoder(FakeDecoder):
    """Cancels the job that it decodes, as a user might just then."""

    farm: Farm

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        assert self.farm.job(batch.items[0].spec.id).cancel()
        return super().decode(batch, mode=mode)


@pytest.mark.redis
def test_a_job_canceled_while_it_is_decoded_never_ends_finished(
    farm: Farm, connection: redis.Redis, settings: Settings, serve: Serve
) -> None:
    decoder = CancelingDecoder([Catalogue.load()["demo"]])
    decoder.farm = farm
    job = farm.submit(LATENTS, vae="demo")

    serve(decoder)

    assert job.status() == "canceled"
    assert not list(connection.scan_iter("vaefarm:image:*")), "its picture was not kept"
    assert not connection.zrange("rq:wip:vaefarm.demo.normal.s.default", 0, -1)


def test_a_job_past_its_deadline_expires_undecoded(farm: Farm, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo", deadline_seconds=0.001)
    time.sleep(0.002)
    serve()

    assert job.status() == "expired"
    with pytest.raises(JobExpired, match="deadline of 0.001 seconds"):
        job.result(timeout=5)


def test_a_result_past_its_life_is_expired_and_an_unknown_id_is_not_found(farm: Farm, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo", result_seconds=1)
    serve()
    assert job.status() == "finished"

    eventually("the result expires", lambda: job.status() == "expired")
    with pytest.raises(JobExpired, match="was finished, and what was kept of it is past its life"):
        job.result(timeout=5)
    for ask in (farm.job("nobody").status, farm.job("nobody").record, farm.job("nobody").cancel):
        with pytest.raises(JobNotFound, match="'nobody' is not known"):
            ask()
    with pytest.raises(JobNotFound):
        farm.job("nobody").wait(timeout=10)


def test_discard_removes_every_trace_but_the_tombstone(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo", job_id="a")
    serve()

    job.discard()

    left = {key.decode() for key in connection.scan_iter("*") if key.rpartition(b":")[2] == b"a" or b":a." in key}
    assert left == {"vaefarm:tombstone:a"}
    with pytest.raises(JobExpired, match="discarded"):
        job.result(timeout=5)


def test_a_discarded_result_leaves_its_tombstone_for_a_minute_and_any_other_end_for_a_week(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    finished = farm.submit(LATENTS, vae="demo")
    serve()
    canceled = farm.submit(LATENTS, vae="demo")
    canceled.cancel()

    for job in (finished, canceled):
        job.discard()
        # Once more, as after a lost reply.
        job.discard()

    assert 0 < connection.ttl(keys.tombstone(finished.id)) <= 60
    assert connection.ttl(keys.tombstone(canceled.id)) > 6 * 24 * 3600


def test_an_entry_from_before_a_cancel_in_bulk_is_nobodys_also_once_its_id_was_used_anew_and_discarded(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    job = farm.submit(LATENTS, vae="demo", job_id="a")
    farm.cancel_many([job])
    farm.submit(LATENTS, vae="demo", job_id="a")
    queue = "rq:queue:vaefarm.demo.normal.s.default"
    assert connection.lrange(queue, 0, -1) == [b"a", b"a"]
    connection.rpop(queue)
    serve()
    assert job.status() == "finished"
    job.discard()

    connection.rpush(queue, "a")
    assert connection.ttl(keys.tombstone("a")) > 6 * 24 * 3600
    serve()

    assert job.status() == "expired"
    assert not connection.exists(keys.job("a"))


def test_discarding_a_waiting_job_cancels_it(farm: Farm, connection: redis.Redis) -> None:
    job = farm.submit(LATENTS, vae="demo")

    job.discard()

    assert job.status() == "expired"
    assert connection.llen("rq:queue:vaefarm.demo.normal.s.default") == 0


class BrokenDecoder(FakeDecoder):
    """Raises for every latent that begins with 7."""

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        if batch.items[0].latents.array.flat[0] == 7:
            raise RuntimeError("the kernel did not like it")
        return super().decode(batch, mode=mode)


def test_a_job_whose_decode_raises_is_tried_three_times_then_fails_with_its_reason_and_latent(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    bad, good = farm.submit(torch.full((1, 4, 8, 8), 7.0), vae="demo"), farm.submit(LATENTS, vae="demo")

    serve(BrokenDecoder([Catalogue.load()["demo"]]))

    assert good.status() == "finished"
    with pytest.raises(JobFailed, match="RuntimeError: the kernel did not like it"):
        bad.result(timeout=5)
    assert bad.record().attempts == 3
    assert [key for key in connection.scan_iter(f"vaefarm:latent:{bad.id}.*")], "kept for inspection"
    retried = farm.submit(torch.full((1, 4, 8, 8), 7.0), vae="demo", job_id=bad.id)
    assert retried.status() == "queued"
    serve()
    assert bad.status() == "finished"


def test_latents_that_decode_to_nan_fail_by_name_at_once(farm: Farm, settings: Settings, serve: Serve) -> None:
    job = farm.submit(torch.full((1, 4, 8, 8), 3e38), vae="sd-v1")
    serve(LocalDecoder([Catalogue.load(settings.catalogue)["sd-v1"]], "cpu"))

    with pytest.raises(JobFailed, match="NaN or Inf"):
        job.result(timeout=5)
    assert job.record().attempts == 1


def test_a_wait_that_gives_up_leaves_the_job_alone(farm: Farm, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo")

    with pytest.raises(WaitTimeout, match="has not ended within 0.05 seconds; it lives on"):
        job.wait(timeout=0.05)
    with pytest.raises(WaitTimeout, match="has no result yet"):
        job.fetch()

    serve()
    assert job.wait(timeout=10) == "finished"


def test_a_wait_of_no_time_looks_once(farm: Farm, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo")
    with pytest.raises(WaitTimeout):
        job.wait(timeout=0)
    with pytest.raises(JobNotFound):
        farm.job("nobodys").image(timeout=0)

    serve()
    eventually("the job has ended", lambda: job.status() == "finished")
    assert farm.job(job.id).image(timeout=0).size == (64, 64)


def test_as_completed_gives_each_job_once_whatever_its_end(farm: Farm, serve: Serve) -> None:
    jobs = farm.submit_many([LATENTS * n for n in range(1, 9)], vae="demo")
    jobs[3].cancel()
    serving = threading.Timer(0.2, serve)
    serving.start()

    ended = [job.id for job in farm.as_completed(jobs, timeout=30)]

    serving.join(30)
    assert sorted(ended) == sorted(job.id for job in jobs)
    assert ended[0] == jobs[3].id


def test_of_several_pictures_each_is_fetched_by_its_index_alone(
    farm: Farm, settings: Settings, connection: redis.Redis, serve: Serve
) -> None:
    job = farm.submit(np.stack([LATENTS[0] * n for n in (1, 2, 3)]), vae="demo")
    serve()
    all_of_them = job.images(timeout=10)
    with pytest.raises(InvalidOption, match=r"has 3 pictures; use images\(\), or image\(index=0\)"):
        job.image()
    with Farm(settings=settings) as direct:
        references = [one.blob for one in direct.job(job.id).record().report.images]  # type: ignore[union-attr]
    connection.delete(keys.blob(references[0].partition(":")[2]))

    assert np.array_equal(np.asarray(job.image(index=2)), np.asarray(all_of_them[2]))
    with pytest.raises(JobExpired):
        job.image(index=0)
    for index in (3, -1):
        with pytest.raises(InvalidOption, match=f"no picture {index}; it has 3"):
            job.image(index=index)


def test_who_waits_once_more_for_a_job_that_has_ended_is_answered_at_once(farm: Farm, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo")
    serve()
    job.wait(timeout=10)

    for _ in range(3):
        # Within less than the seconds between two looks of one whom nobody wakes.
        job.image(timeout=1.0)


def test_as_completed_discards_what_it_delivered(farm: Farm, serve: Serve) -> None:
    jobs = farm.submit_many([LATENTS, LATENTS + 1], vae="demo")
    serve()

    for job in farm.as_completed(jobs, timeout=10, discard=True):
        assert isinstance(job.image(), Image.Image)

    assert {job.status().value for job in jobs} == {"expired"}


def test_waiting_costs_redis_next_to_nothing(settings: Settings, connection: redis.Redis, serve: Serve) -> None:
    farm = Farm(settings=settings)
    jobs = farm.submit_many([LATENTS * n for n in range(1, 101)], vae="demo")
    futures = [job.ended() for job in jobs]
    eventually("all are subscribed", lambda: len(connection.pubsub_channels("vaefarm:done:*")) == 100)
    before = connection.info("commandstats")

    with pytest.raises(WaitTimeout):
        next(farm.as_completed(jobs[:1], timeout=1.0))

    after = connection.info("commandstats")
    asked = sum(after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after)
    assert asked < 500, "a hundred waiters, a second: fewer than three looks at each"
    assert len(connection.client_list(_type="pubsub")) == 1
    serve()
    assert {future.result(timeout=20).value for future in futures} == {"finished"}


def test_closing_a_farm_cancels_its_waits(farm_settings: Settings) -> None:
    farm = Farm(settings=farm_settings)
    future = farm.submit(LATENTS, vae="demo").ended()

    farm.close()

    with pytest.raises(CancelledError):
        future.result(timeout=5)


def test_a_contract_that_a_worker_publishes_is_the_one_that_counts(farm: Farm, connection: redis.Redis) -> None:
    connection.set(keys.contract("mine"), Contract(latent_channels=3, spatial_scale=4).model_dump_json())

    farm.submit(torch.zeros(1, 3, 8, 8), vae="mine")

    with pytest.raises(InvalidLatents, match="expects 3"):
        farm.submit(LATENTS, vae="mine")


def test_every_key_of_an_ended_job_has_a_life(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    jobs = [farm.submit(LATENTS * n, vae="demo") for n in range(1, 4)]
    failing = farm.submit(torch.full((1, 4, 8, 8), 7.0), vae="demo")
    jobs[0].cancel()
    serve(BrokenDecoder([Catalogue.load()["demo"]]))
    assert failing.status() == "failed"

    # RQ's set of queues and its registries, the budget and its list, events: their entries have lives of their own. The
    # pace has a field for each VAE and size, what ended is counted by VAE and status.
    eternal = {key.decode() for key in connection.scan_iter("*") if connection.ttl(key) == -1}

    # The gateway's own, where one has begun since Redis was emptied.
    assert eternal - {"vaefarm:secret"} == {
        "rq:queues",
        "vaefarm:budget",
        "vaefarm:ended",
        "vaefarm:events",
        "vaefarm:failures",
        "vaefarm:kept",
        "vaefarm:pace",
        "rq:finished:vaefarm.demo.normal.s.default",
        "rq:failed:vaefarm.demo.normal.s.default",
    }


async def test_the_async_farm_does_the_same(farm_settings: Settings, serve: Serve) -> None:
    async with AsyncFarm(settings=farm_settings) as farm:
        job = await farm.submit(LATENTS, vae="demo")
        many = await farm.submit_many([LATENTS, LATENTS + 1], vae="demo")
        canceled = await farm.submit(LATENTS, vae="demo")
        assert await canceled.cancel()
        with pytest.raises(WaitTimeout):
            await job.wait(timeout=0.05)
        with pytest.raises(JobNotFound):
            await farm.job("nobodys").wait(timeout=0)
        serve()

        assert (await job.image(timeout=10)).size == (64, 64)
        ended = [one.id async for one in farm.as_completed([*many, canceled], timeout=10)]
        assert sorted(ended) == sorted([*(one.id for one in many), canceled.id])
        assert await job.status() == "finished"
        await job.discard()
        with pytest.raises(JobExpired):
            await farm.job(job.id).result(timeout=5)
        with pytest.raises(InvalidLatents):
            await farm.submit(torch.zeros(3), vae="demo")
        assert [queue.queued for queue in await farm.queues()] == [0]


def test_a_forked_child_can_wait_too(farm: Farm, serve: Serve) -> None:
    import multiprocessing

    first = farm.submit(LATENTS, vae="demo")
    future = first.ended()
    serve()
    assert future.result(timeout=10) == "finished"

    def child() -> None:
        assert farm.job(first.id).wait(timeout=10) == "finished"

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
