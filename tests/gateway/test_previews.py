"""Previews over HTTP: `/v1/jobs/{id}/preview`, for whom, with which answer, and what waits for a new one."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image
from tests.conftest import Serve
from tests.gateway.conftest import Gateway, Keys, soon
from tests.test_previews import Recorder

from vaefarm_producer import AsyncFarm, Farm, QueueFull
from vaefarm_producer.gateway.desk import DESK
from vaefarm_producer.previews import prepare_step
from vaefarm_shared import latents
from vaefarm_shared.latents import Latents
from vaefarm_shared.settings import Settings

ARRAY = np.zeros((1, 4, 8, 8), np.float16)
PACKED = latents.pack(Latents(ARRAY, "float16"))
ASKED = {"vae": "sd-v1", "preview": "taesd"}
STEP = {"vae": "taesd", "shape": "1,4,8,8", "dtype": "float16"}


async def put_step(
    gateway: Gateway, job_id: str, value: float, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    body = (ARRAY + np.float16(value)).tobytes()
    async with gateway.client.put(f"/v1/jobs/{job_id}/preview", params=STEP, data=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def ask(gateway: Gateway, job_id: str, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    """Status, headers, and the picture or the problem."""
    async with gateway.client.get(f"/v1/jobs/{job_id}/preview", headers=headers) as answer:
        if answer.content_type.startswith("image/"):
            return answer.status, answer.headers, Image.open(io.BytesIO(await answer.read()), formats=["JPEG"])
        return answer.status, answer.headers, await answer.json() if await answer.read() else None


async def test_a_job_with_a_preview_shows_it_until_it_has_ended(
    gateway: Gateway, serve: Serve, settings: Settings
) -> None:
    async with gateway.client.put("/v1/jobs/mine", params=ASKED, data=PACKED) as answer:
        assert answer.status == 202
    status, headers, problem = await ask(gateway, "mine")
    assert (status, problem["code"], headers["Retry-After"]) == (409, "WaitTimeout", "1")

    await asyncio.to_thread(serve, Recorder(settings, "taesd"))

    status, headers, image = await ask(gateway, "mine")
    assert (status, image.size, headers["Content-Type"]) == (200, (64, 64), "image/jpeg")
    assert headers["Cache-Control"] == "private, no-cache"
    assert (await ask(gateway, "mine", {"If-None-Match": headers["ETag"]}))[0] == 304
    async with gateway.client.get("/v1/jobs/mine/preview/1") as answer:
        assert (answer.status, "no picture 1" in (await answer.json())["error"]) == (404, True)
    async with gateway.client.head("/v1/jobs/mine/preview") as answer:
        assert answer.status == 200

    await asyncio.to_thread(serve, Recorder(settings, "sd-v1"))

    status, _, problem = await ask(gateway, "mine")
    assert (status, problem["code"], problem["status_of_job"]) == (410, "JobExpired", "finished")


async def test_of_what_nobody_knows_and_of_a_job_without_there_is_none(gateway: Gateway) -> None:
    assert (await ask(gateway, "nobody"))[0] == 404
    async with gateway.client.put("/v1/jobs/mine", params={"vae": "sd-v1"}, data=PACKED) as answer:
        assert answer.status == 202
    status, _, problem = await ask(gateway, "mine")
    assert (status, problem["code"], "has no preview" in problem["error"]) == (404, "JobNotFound", True)


async def test_steps_show_before_there_is_a_job_and_whoever_waits_gets_the_next(
    gateway: Gateway, serve: Serve, settings: Settings
) -> None:
    assert await put_step(gateway, "mine", 1) == (202, {"verdict": "queued"})
    assert await put_step(gateway, "mine", 1) == (202, {"verdict": "same"})
    assert await put_step(gateway, "mine", 2) == (202, {"verdict": "queued"})
    waiting = asyncio.create_task(ask(gateway, "mine", {"Prefer": "wait=30"}))
    await soon("somebody waits", lambda: waits(gateway, "mine--preview"))
    await asyncio.to_thread(serve, Recorder(settings, "taesd"))
    status, headers, _ = await waiting
    assert status == 200

    seen = {"If-None-Match": headers["ETag"], "Prefer": "wait=30"}
    waiting = asyncio.create_task(ask(gateway, "mine", seen))
    await soon("somebody waits", lambda: waits(gateway, "mine--preview"))
    await put_step(gateway, "mine", 3)
    await asyncio.to_thread(serve, Recorder(settings, "taesd"))
    status, again, _ = await waiting
    assert (status, again["ETag"] != headers["ETag"]) == (200, True)


async def waits(gateway: Gateway, job_id: str) -> bool:
    return job_id in gateway.app[DESK].follower._waiting


async def test_whoever_waits_hears_of_the_jobs_end(gateway: Gateway, serve: Serve, settings: Settings) -> None:
    async with gateway.client.put("/v1/jobs/mine", params=ASKED, data=PACKED) as answer:
        assert answer.status == 202
    waiting = asyncio.create_task(ask(gateway, "mine", {"Prefer": "wait=30"}))
    await soon("somebody waits", lambda: waits(gateway, "mine--preview"))

    await asyncio.to_thread(serve, Recorder(settings, "sd-v1"))

    assert (await waiting)[0] == 410


async def test_a_preview_is_seen_by_its_owner_and_by_admins_alone(
    start_gateway: Any, keys: Keys, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    alice, bob, admin = keys.make("alice"), keys.make("bob"), keys.make("root", admin=True)
    gateway = await start_gateway(keys=keys.path)
    await put_step(gateway, "steps", 1, alice)
    async with gateway.client.put("/v1/jobs/mine", params=ASKED, data=PACKED, headers=alice) as answer:
        assert answer.status == 202
    await asyncio.to_thread(serve, Recorder(settings, "taesd"))

    for job_id in ("steps", "mine"):
        found = {
            name: (await ask(gateway, job_id, who))[0]
            for name, who in (("alice", alice), ("bob", bob), ("root", admin))
        }
        assert found == {"alice": 200, "bob": 404, "root": 200}
        assert (await put_step(gateway, job_id, 2, bob))[0] == 404
        async with gateway.client.delete(f"/v1/jobs/{job_id}/preview", headers=bob) as answer:
            assert answer.status == 404
    assert (await ask(gateway, "mine"))[0] == 401
    async with gateway.client.delete("/v1/jobs/mine/preview", headers=alice) as answer:
        assert answer.status == 204
    assert (await ask(gateway, "mine", alice))[0] == 404


async def test_what_another_put_under_a_jobs_id_before_is_not_shown_as_the_jobs(
    start_gateway: Any, keys: Keys, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    alice, bob = keys.make("alice"), keys.make("bob")
    gateway = await start_gateway(keys=keys.path)
    await put_step(gateway, "mine", 1, bob)
    await asyncio.to_thread(serve, Recorder(settings, "taesd"))
    async with gateway.client.put("/v1/jobs/mine", params={"vae": "sd-v1"}, data=PACKED, headers=alice) as answer:
        assert answer.status == 202

    assert [(await ask(gateway, "mine", who))[0] for who in (alice, bob)] == [404, 404]
    assert (await put_step(gateway, "mine", 2, bob))[0] == 404
    assert (await put_step(gateway, "mine", 2, alice)) == (202, {"verdict": "queued"})
    assert connection.hgetall("vaefarm:inflight") == {b"alice": b"2"}


async def test_a_preview_counts_as_a_job_of_its_owner(start_gateway: Any, keys: Keys) -> None:
    one, three = keys.make("one", most=1), keys.make("three", most=3)
    gateway = await start_gateway(keys=keys.path)
    async with gateway.client.put("/v1/jobs/a", params=ASKED, data=PACKED, headers=one) as answer:
        assert (answer.status, "leave preview out" in (await answer.json())["error"]) == (422, True)
    async with gateway.client.put("/v1/jobs/b", params=ASKED, data=PACKED, headers=three) as answer:
        assert answer.status == 202
    async with gateway.client.put("/v1/jobs/c", params=ASKED, data=PACKED, headers=three) as answer:
        assert (answer.status, (await answer.json())["code"]) == (429, "QuotaExceeded")
    assert (await put_step(gateway, "d", 1, three))[0] == 202
    assert (await put_step(gateway, "d", 2, three))[0] == 202
    assert (await put_step(gateway, "e", 1, three))[0] == 429


@pytest.mark.parametrize(
    ("params", "status"),
    [({**ASKED, "preview": "taef1"}, 422), ({**ASKED, "preview": "none"}, 422), ({**ASKED, "task": "encode"}, 422)],
)
async def test_a_preview_that_cannot_be_is_refused_with_its_job(
    params: dict[str, str], status: int, gateway: Gateway, connection: redis.Redis
) -> None:
    async with gateway.client.put("/v1/jobs/mine", params=params, data=PACKED) as answer:
        assert answer.status == status
    assert not list(connection.scan_iter(match="vaefarm:job:*"))


async def test_streams_of_all_jobs_tell_of_no_previews(gateway: Gateway, serve: Serve, settings: Settings) -> None:
    async with gateway.client.get("/v1/events") as stream:
        async with gateway.client.put("/v1/jobs/mine", params=ASKED, data=PACKED) as answer:
            assert answer.status == 202
        await asyncio.to_thread(serve, Recorder(settings, "taesd"))
        await asyncio.to_thread(serve, Recorder(settings, "sd-v1"))
        told = b""
        async with asyncio.timeout(20):
            while b"finished" not in told:
                told += await stream.content.readany()
    assert b'"mine"' in told
    assert b"--preview" not in told


def test_a_farm_over_http_has_previews_as_one_over_redis(
    http_settings: Settings, settings: Settings, serve: Serve, connection: redis.Redis
) -> None:
    with Farm(settings=http_settings) as farm:
        contract = farm.contract("taesd")
        assert farm.job("a").preview() is None
        assert farm._transport.put_preview(prepare_step(ARRAY, "taesd", contract, "a")) == "queued"
        (job,) = farm.submit_many([ARRAY], vae="sd-v1", preview="taesd", job_ids=["a"])
        serve(Recorder(settings, "taesd"))
        image = job.preview(timeout=10)
        assert image is not None
        assert image.size == (64, 64)
        assert farm._transport.drop_preview("a")
        assert not farm._transport.drop_preview("a")
        job.discard()
        assert job.preview(timeout=60) is None
    assert not list(connection.scan_iter(match="*--preview*"))


async def test_asyncio_waits_for_a_preview_as_well(farm_settings: Settings, settings: Settings, serve: Serve) -> None:
    async with AsyncFarm(settings=farm_settings) as farm:
        job = await farm.submit(ARRAY, vae="sd-v1", preview="taesd")
        waiting = asyncio.create_task(job.preview(timeout=30))
        await asyncio.to_thread(serve, Recorder(settings, "taesd"))
        image = await waiting
        assert image is not None
        assert image.size == (64, 64)
        await job.cancel()
        assert await job.preview(timeout=60) is None


def test_a_full_farm_refuses_a_batch_whose_previews_have_no_room(settings: Settings) -> None:
    narrow = settings.model_copy(update={"max_queued_jobs": 3})
    with Farm(settings=narrow) as farm:
        with pytest.raises(QueueFull):
            farm.submit_many([ARRAY, ARRAY + 1], vae="sd-v1", preview="taesd", job_ids=["a", "b"])
        assert farm.job("a").status() == "queued"
        assert farm._transport.queues()
