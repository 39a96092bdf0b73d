"""Bad input to the Hugging Face protocol, waits that end otherwise than with a picture, and what the JSON says then."""

import asyncio
import base64
import json
from typing import Any

import aiohttp
import numpy as np
import pytest
import redis
from tests.conftest import RedisServer, Serve, eventually
from tests.gateway.conftest import Gateway

from vaefarm_producer import Farm
from vaefarm_shared import keys
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.job import JobStatus
from vaefarm_shared.workers import publish_worker
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode

ARRAY = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)
BODY = ARRAY.tobytes()
RAW = [("shape", "1"), ("shape", "4"), ("shape", "8"), ("shape", "8"), ("dtype", "float16")]
INF = np.full_like(ARRAY, np.inf).tobytes()


@pytest.fixture(autouse=True)
def worker(connection: redis.Redis) -> None:
    """A worker that says it lives, and does nothing."""
    say_that_one_lives(connection, "demo")


def say_that_one_lives(connection: redis.Redis, *vaes: str, sizes: tuple[str, ...] = ("s", "m", "l", "xl")) -> None:
    connection.sadd("rq:workers", "rq:worker:idle")
    publish_worker(connection, "idle", {"vaes": dict.fromkeys(vaes, "x"), "sizes": dict.fromkeys(vaes, sizes)})


def spec_of(connection: redis.Redis, job_id: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(connection.hget(keys.job(job_id), "spec") or "")
    return spec


async def refused(answer: aiohttp.ClientResponse, status: int) -> str:
    """The error of an answer, which is JSON of one line whatever went wrong."""
    assert (answer.status, answer.content_type) == (status, "application/json"), await answer.text()
    told = await answer.json()
    assert "\n" not in told["error"]
    return str(told["error"])


def but(**changes: Any) -> list[tuple[str, str]]:
    """The query, with some of it said otherwise."""
    kept = [(name, value) for name, value in RAW if name not in changes]
    for name, value in changes.items():
        kept += [(name, one) for one in (value if isinstance(value, list) else [value])]
    return kept


@pytest.mark.parametrize(
    ("query", "body", "says"),
    [
        (RAW, BODY[:-1], "has 511 bytes; shape [1, 4, 8, 8] in float16 takes 512"),
        (RAW, BODY + b"x", "more than the 512 bytes"),
        (RAW, b"", "has 0 bytes"),
        (but(shape=["1", "4", "0", "8"]), b"", "side of 0"),
        (but(shape=["1", "4", "-8", "8"]), b"", "side of -8"),
        (but(shape=["1"] * 10), b"xx", "shape"),
        (but(shape=["1", "4"]), BODY, "2 dimensions"),
        (but(shape="5"), BODY, "1 dimensions"),
        (but(shape=["1099511627776", "1", "1", "1"]), b"", "at most"),
        (but(shape=["1", "5", "8", "8"]), np.zeros((1, 5, 8, 8), np.float16).tobytes(), "5 channels"),
        (but(shape=["1", "4", "8", "x"]), BODY, "'x'"),
        (
            but(shape=["1", "4", "1", "8", "8"]),
            BODY,
            "rank 5, shape (1, 4, 1, 8, 8); expected (n, 4, height/8, width/8)",
        ),
        (but(dtype="uint8"), BODY[:256], "uint8"),
        (but(dtype="float64"), BODY, "float64"),
        ([("shape", "1,4,8,8")], BODY, "dtype is missing"),
        ([("dtype", "float16")], BODY, "shape is missing"),
        ([], BODY, "shape"),
        (RAW, INF, ".cpu().contiguous()"),
        ([*RAW, ("output_type", "mp4")], BODY, "output_type=mp4 asks for a video, and this makes none"),
        ([*RAW, ("fps", "24")], BODY, "fps and video_format are for videos; this job makes pictures"),
        ([*RAW, ("num_frames", "1")], BODY, "num_frames is 1; VAE 'demo' makes pictures"),
        ([*RAW, ("fps", "0")], BODY, "fps"),
        ([*RAW, ("output_type", "np")], BODY, "output_type"),
        ([*RAW, ("scaling_factor", "0")], BODY, "scaling_factor is 0"),
        ([*RAW, ("scaling_factor", "nan")], BODY, "scaling_factor"),
        ([*RAW, ("shift_factor", "1")], BODY, "without scaling_factor"),
        ([*RAW, ("dtype", "float32")], BODY, "given 2 times"),
    ],
)
async def test_bad_latents_are_400_with_the_reason(gateway: Gateway, farm: Farm, query, body, says) -> None:
    async with gateway.client.post("/hf/demo", params=query, data=body) as answer:
        assert says in await refused(answer, 400)
    assert farm.queues() == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"inputs": {"a": [[[[]]]]}}', "no base64 text"),
        (b"[]", "no base64 text"),
        (b'{"inputs": "AA", "parameters": []}', "parameters"),
        (b'{"inputs": "****", "parameters": {}}', "no base64"),
        (b'{"inputs": "AAA", "parameters": {}}', "no base64"),
        (b'{"inputs": "AAAA", "parameters": {}}', "shape"),
        (b'{"inputs": "AAAA", "parameters": {"shape": [1, 4, 8, 8], "dtype": "float16"}}', "has 3 bytes"),
        (
            b'{"inputs": "AAAA", "parameters": {"shape": [1, 4, 8, 8], "dtype": "float16", "scaling_factor": NaN}}',
            "scaling",
        ),
        (b'{"inputs": "AAAA", "parameters": {"shape": [' + b"9" * 5000 + b"]}}", "body"),
        (b"\xff\xfe", "no JSON"),
    ],
)
async def test_bad_json_is_400_with_the_reason(gateway: Gateway, body: bytes, says: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with gateway.client.post("/hf/demo", data=body, headers=headers) as answer:
        assert says in await refused(answer, 400)


async def test_non_finite_latents_of_v1_are_refused_too(gateway: Gateway) -> None:
    data = {
        "inputs": base64.b64encode(INF).decode(),
        "parameters": {"shape": [1, 4, 8, 8], "dtype": "float16"},
    }
    async with gateway.client.post("/hf/demo", json=data) as answer:
        assert "NaN or Inf" in await refused(answer, 400)


@pytest.mark.parametrize("picture", [b"\x89PNG\r\n\x1a\nxxx", b"\xff\xd8\xff\xd9", b"RIFFxxxxWEBP", b"nothing"])
async def test_what_is_no_picture_is_encoded_by_none(gateway: Gateway, picture: bytes) -> None:
    async with gateway.client.post("/hf/demo/encode", data=picture) as answer:
        assert "picture" in await refused(answer, 400)


async def test_a_body_above_the_limit_is_413(start_gateway) -> None:
    gateway = await start_gateway(max_body_bytes=1024)
    query = but(shape=["1", "4", "64", "64"])
    async with gateway.client.post("/hf/demo", params=query, data=b"x" * 32768) as answer:
        assert "more than 1024 bytes" in await refused(answer, 413)
    headers = {"Content-Type": "application/json"}
    async with gateway.client.post("/hf/demo", data=b" " * 2048, headers=headers) as answer:
        await refused(answer, 413)


@pytest.mark.parametrize("vae", ["nobody", "a%0d%0ab", "...", "x" * 65, "caf%C3%A9"])
async def test_a_vae_that_nobody_knows_is_404(gateway: Gateway, vae: str) -> None:
    for method, path in (("POST", f"/hf/{vae}/decode"), ("GET", f"/hf/{vae}/health")):
        url = f"{gateway.url}{path}"
        async with gateway.client.request(method, url, params=RAW, data=BODY) as answer:
            await refused(answer, 404)


async def test_no_worker_for_the_vae_is_503_at_once_and_queues_nothing(gateway: Gateway, farm: Farm) -> None:
    for method, path in (("POST", "/hf/sdxl"), ("GET", "/hf/sdxl/health")):
        async with gateway.client.request(method, path, params=RAW, data=BODY) as answer:
            assert "no worker serves VAE 'sdxl'" in await refused(answer, 503)
            assert answer.headers["Retry-After"] == "10"
    assert farm.queues() == []


async def test_no_worker_with_room_for_the_size_is_503_at_once(gateway: Gateway, connection: redis.Redis) -> None:
    say_that_one_lives(connection, "demo", sizes=("s",))
    large = np.zeros((1, 4, 128, 128), np.float16)
    query = but(shape=[str(size) for size in large.shape])
    async with gateway.client.post("/hf/demo", params=query, data=large.tobytes()) as answer:
        assert "no worker" in await refused(answer, 503)


async def test_redis_away_is_503_at_once(gateway: Gateway, server: RedisServer) -> None:
    server.stop()
    try:
        async with gateway.client.post("/hf/demo", params=RAW, data=BODY) as answer:
            await refused(answer, 503)
            assert "Retry-After" in answer.headers
    finally:
        server.start()


async def test_a_wait_that_is_too_long_is_504_and_the_job_lives_on(start_gateway, farm: Farm, serve: Serve) -> None:
    gateway = await start_gateway(wait_seconds=0.2)
    async with gateway.client.post("/hf/demo", params=[*RAW, ("image_format", "png")], data=BODY) as answer:
        job_id = answer.headers["x-job-id"]
        assert job_id in await refused(answer, 504)
    await asyncio.to_thread(serve)
    async with gateway.client.get(f"/v1/jobs/{job_id}/image") as answer:
        assert (answer.status, await answer.read()) == (200, farm.job(job_id).result(10).data[0])


async def queued(farm: Farm) -> str:
    """The one job that waits."""
    await asyncio.to_thread(eventually, "a job waits", lambda: list(farm.queued("demo")), 10)
    return next(iter(farm.queued("demo"))).id


async def test_a_client_that_goes_takes_its_job_with_it(gateway: Gateway, farm: Farm) -> None:
    asked = asyncio.create_task(gateway.client.post("/hf/demo", params=RAW, data=BODY))
    job_id = await queued(farm)
    asked.cancel()
    await asyncio.to_thread(eventually, "it is canceled", lambda: farm.job(job_id).status() is JobStatus.CANCELED, 10)


async def test_a_gateway_that_stops_leaves_its_jobs_and_says_so(start_gateway, farm: Farm) -> None:
    gateway = await start_gateway()
    asked = asyncio.create_task(gateway.client.post("/hf/demo", params=RAW, data=BODY))
    job_id = await queued(farm)
    await gateway.stop()
    with pytest.raises(aiohttp.ClientError):
        (await asked).raise_for_status()
    assert farm.job(job_id).status() is JobStatus.QUEUED


async def test_a_failed_job_is_400_with_its_reason_and_its_id(gateway: Gateway, farm: Farm, serve: Serve) -> None:
    class Failing(FakeDecoder):
        def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
            raise ValueError("these latents are cursed")

    asked = asyncio.create_task(gateway.client.post("/hf/demo", params=RAW, data=BODY))
    job_id = await queued(farm)
    await asyncio.to_thread(serve, Failing([entry for entry in Catalogue.load() if entry.id == "demo"]))
    async with await asked as answer:
        assert "these latents are cursed" in await refused(answer, 400)
        assert answer.headers["x-job-id"] == job_id


async def test_a_job_that_others_cancel_is_told_so(gateway: Gateway, farm: Farm) -> None:
    asked = asyncio.create_task(gateway.client.post("/hf/demo", params=RAW, data=BODY))
    assert farm.job(await queued(farm)).cancel()
    async with await asked as answer:
        assert "canceled" in await refused(answer, 409)


async def test_who_waits_for_a_worker_to_come_says_so(gateway: Gateway, farm: Farm, serve: Serve) -> None:
    headers = {"X-Scale-Up-Timeout": "600"}
    asked = asyncio.create_task(gateway.client.post("/hf/sdxl", params=RAW, data=BODY, headers=headers))
    await asyncio.to_thread(eventually, "a job waits", lambda: list(farm.queued("sdxl")), 10)
    await asyncio.to_thread(serve)
    async with await asked as answer:
        assert (answer.status, answer.content_type) == (200, "image/jpeg")


@pytest.mark.parametrize(("path", "options"), [("/", {}), ("/predict", {}), ("/", {"default_vae": "demo"})])
async def test_the_one_vae_that_is_served_or_configured_is_the_default(
    start_gateway, farm: Farm, serve: Serve, connection: redis.Redis, path: str, options: Any
) -> None:
    gateway = await start_gateway(**options)
    if options:
        say_that_one_lives(connection, "demo", "sdxl")
    asked = asyncio.create_task(gateway.client.post(path, params=RAW, data=BODY))
    job_id = await queued(farm)
    await asyncio.to_thread(serve)
    async with await asked as answer:
        assert (answer.status, answer.headers["x-job-id"]) == (200, job_id)


@pytest.mark.parametrize(
    ("scales", "query", "choice"),
    [
        (False, RAW, "none"),
        (True, RAW, "model"),
        (True, [*RAW, ("do_scaling", "False")], "none"),
        (True, [*RAW, ("scaling_factor", "2")], "explicit"),
    ],
)
async def test_what_silence_means_is_the_operators_choice_and_told(start_gateway, farm, scales, query, choice) -> None:
    gateway = await start_gateway(hf_scales=scales, wait_seconds=0.1)
    async with gateway.client.post("/hf/demo", params=query, data=BODY) as answer:
        assert answer.headers["x-scaling"] == choice
        job_id = answer.headers["x-job-id"]
    assert farm.job(job_id).record().metadata["scaling"] == choice


async def test_results_are_kept_for_as_long_as_the_operator_says(start_gateway, farm, serve, connection) -> None:
    gateway = await start_gateway(hf_result_seconds=77, wait_seconds=0.1)
    async with gateway.client.post("/hf/demo", params=RAW, data=BODY) as answer:
        job_id = answer.headers["x-job-id"]
    spec = spec_of(connection, job_id)
    assert (spec["result_seconds"], spec["failure_seconds"]) == (77, 77)


async def test_a_tensor_of_pictures_is_encoded_and_one_of_latents_decoded_at_one_address(
    start_gateway, connection: redis.Redis
) -> None:
    gateway = await start_gateway(wait_seconds=0.1)
    image = np.zeros((1, 3, 8, 8), np.float32)
    for query, task in (
        (but(shape=["1", "3", "8", "8"], dtype="float32"), "encode"),
        (but(shape=["1", "8", "8", "3"], dtype="uint8"), "encode"),
        (RAW, "decode"),
    ):
        body = BODY if task == "decode" else image.tobytes() if ("dtype", "float32") in query else bytes(192)
        async with gateway.client.post("/hf/demo", params=query, data=body) as answer:
            assert answer.status == 504
            spec = spec_of(connection, answer.headers["x-job-id"])
        assert spec.get("task", "decode") == task
    # What is said of decodes alone makes it one, with three channels or not.
    query = but(shape=["1", "3", "8", "8"], dtype="float32", output_type="pil")
    async with gateway.client.post("/hf/demo", params=query, data=image.tobytes()) as answer:
        assert "3 channels" in await refused(answer, 400)
