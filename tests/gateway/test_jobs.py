"""Jobs over HTTP: submit, ask, wait, fetch, cancel; and each kind of bad input."""

import asyncio
import gc
import json

import numpy as np
import pytest
from tests.conftest import Serve
from tests.gateway.conftest import Gateway, soon

from vaefarm_producer import Farm
from vaefarm_producer.gateway.desk import DESK
from vaefarm_producer.submission import PreparedJob
from vaefarm_shared import latents
from vaefarm_shared.latents import Latents

ARRAY = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)
PACKED = latents.pack(Latents(ARRAY, "float16"))
RAW = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float16"}


async def test_a_job_is_taken_waited_for_and_its_picture_fetched(gateway: Gateway, serve: Serve, farm: Farm) -> None:
    async with gateway.client.post("/v1/jobs", params={"vae": "demo"}, data=PACKED) as answer:
        assert answer.status == 202
        job = await answer.json()
        assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"

    serving = asyncio.create_task(asyncio.to_thread(serve))
    async with gateway.client.get(job["url"], headers={"Prefer": "wait=10"}) as answer:
        ended = await answer.json()
        assert (answer.status, ended["status"]) == (200, "finished")
        assert answer.headers["Preference-Applied"] == "wait=10"
    await serving

    async with gateway.client.get(ended["results"][0]["url"]) as answer:
        assert (answer.status, answer.content_type) == (200, "image/png")
        assert await answer.read() == farm.job(job["id"]).result().data[0]


async def test_raw_bytes_with_shape_and_dtype_are_the_same_job_as_a_safetensors_file(gateway: Gateway) -> None:
    async with gateway.client.put("/v1/jobs/mine", params={"vae": "demo"}, data=PACKED) as answer:
        assert answer.status == 202
    async with gateway.client.put("/v1/jobs/mine", params=RAW, data=ARRAY.tobytes()) as answer:
        assert answer.status == 202
    async with gateway.client.put("/v1/jobs/mine", params=RAW, data=(-ARRAY).tobytes()) as answer:
        assert (answer.status, (await answer.json())["code"]) == (409, "JobConflict")


async def test_a_submit_that_waits_for_its_job_holds_none_of_its_bytes(gateway: Gateway, farm: Farm) -> None:
    async def submit() -> int:
        wait = {"Prefer": "wait=60"}
        async with gateway.client.put("/v1/jobs/mine", params={"vae": "demo"}, data=PACKED, headers=wait) as answer:
            return answer.status

    async def waits() -> bool:
        return "mine" in gateway.app[DESK].follower._waiting

    submitting = asyncio.create_task(submit())
    await soon("the submit waits", waits)
    gc.collect()
    held = [one for one in gc.get_objects() if type(one) is PreparedJob and one.spec.id == "mine"]
    farm.job("mine").cancel()

    assert held == []
    assert await submitting == 200


@pytest.mark.parametrize(
    ("change", "body", "status", "says"),
    [
        ({}, ARRAY.tobytes()[:-1], 422, "has 511 bytes"),
        ({}, ARRAY.tobytes() + b"x", 413, "more than 512 bytes"),
        ({"shape": "1,4,0,8"}, b"", 422, "side of 0"),
        ({"shape": "1,4,-8,8"}, b"", 422, "side of -8"),
        ({"shape": "1,1,1,1,1,1,1,1,1,1"}, b"xx", 422, "shape"),
        ({"shape": "1099511627776,4,8,8"}, b"", 422, "at most"),
        ({"dtype": "float8"}, ARRAY.tobytes(), 422, "dtype"),
        ({"dtype": "uint8"}, ARRAY.tobytes()[:256], 422, "uint8"),
        ({"vae": "nobody"}, ARRAY.tobytes(), 422, "nobody"),
        ({"vae": "a\r\nb"}, ARRAY.tobytes(), 422, "vae"),
        ({"colour": "red"}, ARRAY.tobytes(), 422, "colour"),
        ({"metadata": "[" * 2_000}, ARRAY.tobytes(), 422, "metadata"),
        ({"metadata": '{"a": "\\ud800"}'}, ARRAY.tobytes(), 422, "metadata"),
        ({"metadata": '{"\\ud800": "a"}'}, ARRAY.tobytes(), 422, "metadata"),
        ({"result_seconds": "9" * 18}, ARRAY.tobytes(), 422, "result_seconds"),
        ({"failure_seconds": "9" * 18}, ARRAY.tobytes(), 422, "failure_seconds"),
        ({"deadline_seconds": "inf"}, ARRAY.tobytes(), 422, "deadline_seconds"),
    ],
)
async def test_bad_input_is_named_and_nothing_is_queued(
    gateway: Gateway, farm: Farm, change: dict[str, str], body: bytes, status: int, says: str
) -> None:
    async with gateway.client.post("/v1/jobs", params=RAW | change, data=body) as answer:
        told = await answer.json()

    assert answer.status == status
    assert says in told["error"]
    assert "Traceback" not in told["error"]
    assert sum(queue.queued for queue in farm.queues()) == 0


async def test_a_picture_without_its_task_is_told_how_it_is_encoded(gateway: Gateway) -> None:
    for picture in (b"\x89PNG\r\n\x1a\n....", b"\xff\xd8\xff....", b"RIFF....WEBP"):
        async with gateway.client.post("/v1/jobs", params={"vae": "demo"}, data=picture) as answer:
            assert answer.status == 422
            assert "task=encode" in (await answer.json())["error"]


async def test_values_that_are_not_finite_are_refused(gateway: Gateway) -> None:
    broken = ARRAY.copy()
    broken[0, 0, 0, 0] = np.nan
    async with gateway.client.post("/v1/jobs", params=RAW, data=broken.tobytes()) as answer:
        assert (answer.status, (await answer.json())["code"]) == (422, "InvalidLatents")


async def test_unknown_expired_failed_and_waiting_are_four_answers(gateway: Gateway, farm: Farm) -> None:
    waiting = farm.submit(ARRAY, vae="demo")
    expired = farm.submit(ARRAY, vae="demo")
    expired.discard()
    answers = {}
    for job_id in ("nobody", waiting.id, expired.id):
        async with gateway.client.get(f"/v1/jobs/{job_id}/image") as answer:
            answers[job_id] = answer.status, (await answer.json())["code"]
    assert answers == {
        "nobody": (404, "JobNotFound"),
        waiting.id: (409, "WaitTimeout"),
        expired.id: (410, "JobExpired"),
    }


async def test_a_long_poll_is_answered_when_the_job_ends(gateway: Gateway, farm: Farm) -> None:
    job = farm.submit(ARRAY, vae="demo")

    async def poll() -> dict[str, str]:
        async with gateway.client.get(f"/v1/jobs/{job.id}", headers={"Prefer": "wait=30"}) as answer:
            told: dict[str, str] = await answer.json()
            return told

    polling = asyncio.create_task(poll())
    async with gateway.client.delete(f"/v1/jobs/{job.id}") as answer:
        assert (answer.status, (await answer.json())["status"]) == (200, "canceled")
    assert (await asyncio.wait_for(polling, 10))["status"] == "canceled"

    async with gateway.client.delete(f"/v1/jobs/{job.id}") as answer:
        assert answer.status == 204
    async with gateway.client.get(f"/v1/jobs/{job.id}") as answer:
        assert answer.status == 410


async def test_a_picture_has_an_etag_and_ranges(gateway: Gateway, farm: Farm, serve: Serve) -> None:
    job = farm.submit(ARRAY, vae="demo")
    await asyncio.to_thread(serve)
    data = (await asyncio.to_thread(job.result, 10)).data[0]
    path = f"/v1/jobs/{job.id}/image"
    async with gateway.client.get(path, headers={"Range": "bytes=1-4"}) as answer:
        assert (answer.status, await answer.read()) == (206, data[1:5])
        assert answer.headers["Content-Range"] == f"bytes 1-4/{len(data)}"
        tag = answer.headers["ETag"]
    async with gateway.client.get(path, headers={"If-None-Match": tag}) as answer:
        assert answer.status == 304
    async with gateway.client.get(path, headers={"Range": f"bytes={len(data)}-"}) as answer:
        assert answer.status == 416
    async with gateway.client.get(path, headers={"Range": "bytes=-3"}) as answer:
        assert (answer.status, await answer.read()) == (206, data[-3:])


async def test_many_are_asked_for_at_once(gateway: Gateway, farm: Farm) -> None:
    job = farm.submit(ARRAY, vae="demo")
    async with gateway.client.post("/v1/statuses", data=json.dumps({"ids": [job.id, "nobody"]})) as answer:
        assert await answer.json() == {"statuses": ["queued", None]}
    async with gateway.client.post("/v1/cancels", data=json.dumps({"ids": ["nobody", job.id]})) as answer:
        assert await answer.json() == {"statuses": [None, "canceled"]}
