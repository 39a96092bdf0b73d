"""`POST /v1/batches`: each job has a verdict of its own, and a body that is no batch queues nothing."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import numpy as np
import pytest
import redis
from aiohttp import web
from tests.conftest import Serve
from tests.gateway.conftest import Gateway
from tests.test_encode_jobs import picture

from vaefarm_producer import Farm
from vaefarm_producer.gateway.access import PRINCIPAL, Principal
from vaefarm_producer.gateway.batches import MAX_JOBS
from vaefarm_producer.gateway.bodies import ROOM, Room
from vaefarm_producer.gateway.desk import DESK, Desk
from vaefarm_producer.gateway.farm_routes import FARM_ROUTES
from vaefarm_producer.gateway.problems import Handler, answer_problems
from vaefarm_producer.gateway.routes import add_routes
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared import latents
from vaefarm_shared.settings import Settings

LATENTS = np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 4, 8, 8)
HEAD = {"Content-Type": "multipart/form-data; boundary=cut"}


def packed(array: Any = LATENTS) -> bytes:
    return latents.pack(latents.from_tensor(array))


def part(name: str, data: bytes) -> bytes:
    return b'--cut\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), data)


def job(data: bytes, **options: object) -> bytes:
    return (part("options", json.dumps(options).encode()) if options else b"") + part("latents", data)


def batch(*jobs: bytes) -> bytes:
    return b"".join(jobs) + b"--cut--\r\n"


async def post(gateway: Gateway, body: bytes, query: str = "") -> tuple[int, dict[str, Any]]:
    async with gateway.client.post(f"/v1/batches{query}", data=body, headers=HEAD) as response:
        return response.status, await response.json()


async def test_each_job_has_a_verdict_and_a_refused_one_hides_no_other(gateway: Gateway, farm: Farm) -> None:
    farm.submit(LATENTS + 1, vae="demo", job_id="taken")

    status, answer = await post(
        gateway,
        batch(
            job(packed(), id="a"),
            job(packed(LATENTS * np.nan), id="nan"),
            job(packed(), id="taken"),
            job(packed(), id="b", vae="flux"),
            job(packed(), id="c", qualty=3),
            job(packed(), id="no id"),
            job(packed(), id="d"),
        ),
        "?vae=demo",
    )

    assert status == 202
    assert [(one["id"], one.get("status"), one.get("code")) for one in answer["jobs"]] == [
        ("a", "queued", None),
        ("nan", None, "InvalidLatents"),
        ("taken", None, "JobConflict"),
        ("b", None, "InvalidLatents"),
        ("c", None, "InvalidOption"),
        ("no id", None, "InvalidJobId"),
        ("d", "queued", None),
    ]
    assert answer["jobs"][0]["url"] == "/v1/jobs/a"
    assert [farm.job(job_id).status() for job_id in ("a", "taken", "d")] == ["queued"] * 3
    assert sum(queue.queued for queue in farm.queues()) == 3


async def test_a_batch_of_which_no_job_was_taken_is_an_error_that_still_tells_of_each(gateway: Gateway) -> None:
    status, answer = await post(gateway, batch(job(packed(), vae="sd4"), job(b"no tensor", vae="demo")))

    assert status == 422
    assert (answer["code"], [one["code"] for one in answer["jobs"]]) == ("UnknownVae", ["UnknownVae", "InvalidLatents"])
    assert "'sd4' is not known" in answer["error"]


async def test_the_query_holds_for_jobs_that_do_not_say_otherwise(gateway: Gateway, farm: Farm, serve: Serve) -> None:
    raw = LATENTS.tobytes()
    status, answer = await post(
        gateway,
        batch(
            job(packed()),
            job(packed(), image_format="png", metadata={"n": "1"}),
            job(raw, shape=[1, 4, 8, 8], dtype="float32"),
            job(picture(), task="encode"),
        ),
        "?vae=demo&image_format=webp",
    )
    assert (status, [one.get("code") for one in answer["jobs"]]) == (202, [None, None, None, "InvalidOption"])
    jobs = [farm.job(one["id"]) for one in answer["jobs"][:3]]
    serve()

    assert [one.image(timeout=10).format for one in jobs] == ["WEBP", "PNG", "WEBP"]
    assert jobs[1].record().metadata == {"n": "1"}
    status, answer = await post(gateway, batch(job(picture(), vae="demo", task="encode", id="e")))
    serve()
    assert farm.job("e").latents(timeout=10).shape == (1, 4, 8, 8)


async def test_the_same_batch_again_changes_nothing(gateway: Gateway, farm: Farm) -> None:
    body = batch(*(job(packed(LATENTS + n), id=f"j{n}", vae="demo") for n in range(3)))

    assert await post(gateway, body) == await post(gateway, body)
    assert sum(queue.queued for queue in farm.queues()) == 3


GOOD = job(packed(), vae="demo")
BAD = [
    (b"", "no multipart/form-data that can be read"),
    (b"--cut--\r\n", "the batch has no job"),
    (GOOD, "no multipart/form-data that can be read"),
    (batch(GOOD)[:-300], "no multipart/form-data that can be read"),
    (batch(GOOD, part("options", b"{}")), "job 1: its options came without `latents`"),
    (batch(GOOD, part("options", b"{}"), part("options", b"{}")), "job 1: part 'options' came"),
    (batch(GOOD, part("latent", b"x")), "job 1: part 'latent' came; expected `options`, then `latents`"),
    (batch(GOOD, part("options", b"{,}"), part("latents", b"x")), "job 1: its options is no JSON"),
    (batch(GOOD, part("options", b"[1]"), part("latents", b"x")), "job 1: its options are no JSON object"),
    (batch(GOOD, part("options", b"[" * 100_000), part("latents", b"x")), "job 1: its options is no JSON"),
    (batch(GOOD, part("options", b" " * 300_000), part("latents", b"x")), "its options have more than"),
    (batch(*[GOOD] * (MAX_JOBS + 1)), f"the batch has more than {MAX_JOBS} jobs"),
    (b"--cut\r\nX: y\r\n\r\nz\r\n--cut--\r\n", "no multipart/form-data that can be read"),
    (b"--cut\r\n" + b"X: y\r\n" * 100 + b"\r\nz\r\n--cut--\r\n", "no multipart/form-data that can be read"),
]


@pytest.mark.parametrize(("body", "said"), BAD, ids=lambda value: None)
async def test_a_body_that_is_no_batch_is_refused_whole(
    gateway: Gateway, connection: redis.Redis, body: bytes, said: str
) -> None:
    status, answer = await post(gateway, body)

    assert (status, answer["code"]) == (422, "InvalidOption")
    assert said in answer["error"]
    assert not list(connection.scan_iter("vaefarm:job:*"))


@pytest.mark.parametrize("kind", ["text/plain", "application/json; boundary=cut", "multipart/form-data", ""])
async def test_a_body_of_another_type_is_refused(gateway: Gateway, kind: str) -> None:
    async with gateway.client.post("/v1/batches", data=batch(GOOD), headers={"Content-Type": kind}) as response:
        assert (response.status, (await response.json())["code"]) == (422, "InvalidOption")


async def test_a_batch_beyond_the_limits_of_bytes_is_refused_and_its_room_is_given_back(start_gateway: Any) -> None:
    gateway = await start_gateway(max_body_bytes=4096, bodies_bytes=4096)

    status, answer = await post(gateway, batch(*[GOOD] * 10))
    assert (status, answer["code"]) == (413, "BodyTooLarge")
    for _ in range(5):
        assert (await post(gateway, batch(GOOD)))[0] == 202


async def test_redis_away_is_one_answer_for_the_whole_batch(settings: Settings, start_gateway: Any) -> None:
    away = settings.at("redis://127.0.0.1:1/0").model_copy(update={"submit_timeout": 0.1})
    status, answer = await post(await start_gateway(away), batch(GOOD))

    assert (status, answer["code"]) == (503, "FarmUnavailable")
    assert "jobs" not in answer


@pytest.fixture
async def as_bob(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whom the gateway takes for bob, who is no admin."""

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[PRINCIPAL] = Principal("bob", max_in_flight=3)
        return await handler(request)

    app = web.Application(middlewares=[answer_problems, admit])
    app[DESK], app[ROOM] = Desk(settings, GatewaySettings.from_env()), Room(1 << 30)
    add_routes(app, FARM_ROUTES)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        yield client
    await runner.cleanup()
    await app[DESK].close()


async def test_a_job_of_a_batch_is_its_makers_and_another_ones_id_does_not_exist(
    as_bob: aiohttp.ClientSession, farm: Farm
) -> None:
    farm.submit(LATENTS, vae="demo", job_id="a")

    async with as_bob.post(
        "/v1/batches", data=batch(*(job(packed(), id=i, vae="demo") for i in "ab")), headers=HEAD
    ) as r:
        entries = (await r.json())["jobs"]

    assert [(one.get("status"), one.get("code")) for one in entries] == [(None, "JobNotFound"), ("queued", None)]
    assert [farm.job(job_id).record().owner for job_id in "ab"] == ["admin", "bob"]


async def test_what_is_beyond_a_keys_quota_is_refused_by_name_and_the_rest_is_taken(
    as_bob: aiohttp.ClientSession,
) -> None:
    body = batch(*(job(packed(LATENTS + n), id=f"j{n}", vae="demo") for n in range(5)))
    async with as_bob.post("/v1/batches", data=body, headers=HEAD) as response:
        entries = (await response.json())["jobs"]

    assert response.status == 202
    assert [one.get("code") for one in entries] == [None, None, None, "QuotaExceeded", "QuotaExceeded"]
    assert all(one["retry_after_seconds"] > 0 for one in entries[3:])


async def get(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_who_is_no_admin_sees_depths_without_lanes_and_workers_without_names(
    gateway: Gateway, as_bob: aiohttp.ClientSession, farm: Farm, connection: redis.Redis
) -> None:
    for producer in ("acme", "rival"):
        farm.submit(LATENTS, vae="demo", producer=producer)
    register(connection, "secret-host", {"vaes": {"demo": "sha256:1"}, "device": "cuda:0 of secret-host"})

    theirs = await get(as_bob, "/v1/queues")
    assert theirs["queues"] == [{"name": "vaefarm.demo.normal.s", "queued": 2}]
    assert [one["name"] for one in (await get(gateway.client, "/v1/queues"))["queues"]] == [
        "vaefarm.demo.normal.s.acme",
        "vaefarm.demo.normal.s.rival",
    ]
    assert await get(as_bob, "/v1/workers") == {"workers": [{"vaes": {"demo": "sha256:1"}, "sizes": {}}]}
    assert (await get(gateway.client, "/v1/workers"))["workers"][0]["name"] == "secret-host"


def register(connection: redis.Redis, name: str, description: dict[str, Any]) -> None:
    """Leave what a living worker says of itself."""
    connection.sadd("rq:workers", f"rq:worker:{name}")
    connection.set(f"vaefarm:worker:{name}", json.dumps({"name": name, **description}), ex=30)


async def test_vaes_are_told_with_contract_workers_and_queue(
    gateway: Gateway, farm: Farm, connection: redis.Redis
) -> None:
    farm.submit(LATENTS, vae="demo")
    farm.pause("demo")
    register(connection, "w", {"vaes": {"demo": "sha256:1"}})

    one = await get(gateway.client, "/v1/vaes/demo")
    vaes = {vae["id"]: vae for vae in (await get(gateway.client, "/v1/vaes"))["vaes"]}

    assert vaes["demo"] == one
    assert (one["workers"], one["paused"], one["queued"], one["contract"]["latent_channels"]) == (1, True, 1, 4)
    assert (vaes["flux"]["workers"], vaes["flux"]["paused"], vaes["flux"]["queued"]) == (0, False, 0)
    async with gateway.client.get("/v1/vaes/sd4") as response:
        assert (response.status, (await response.json())["code"]) == (422, "UnknownVae")


async def read_lines(gateway: Gateway, path: str) -> Sequence[Any]:
    async with gateway.client.get(path) as response:
        assert response.content_type == "application/x-ndjson"
        return [json.loads(line) async for line in response.content]


async def test_long_lists_come_as_lines_and_as_many_as_are_wanted(gateway: Gateway, farm: Farm) -> None:
    jobs = farm.submit_many([LATENTS + n for n in range(1200)], vae="demo")

    lines = await read_lines(gateway, "/v1/queued?vae=demo")
    assert sorted(one["id"] for one in lines) == sorted(one.id for one in jobs)
    assert len(await read_lines(gateway, "/v1/queued?vae=demo&limit=700")) == 700
    assert await read_lines(gateway, "/v1/queued?vae=flux") == []
    for path in (
        "/v1/queued",
        "/v1/queued?vae=demo&limit=0",
        f"/v1/failed?limit={10**30}",
        "/v1/failed?limit=x",
        "/v1/devices?quarantined=maybe",
    ):
        async with gateway.client.get(path) as response:
            assert (response.status, (await response.json())["code"]) == (422, "InvalidOption")


async def test_redis_away_is_told_before_the_first_line(settings: Settings, start_gateway: Any) -> None:
    away: Gateway = await start_gateway(settings.at("redis://127.0.0.1:1/0"))
    async with away.client.get("/v1/failed") as response:
        assert (response.status, (await response.json())["code"]) == (503, "FarmUnavailable")


def test_what_operators_do_is_for_admins() -> None:
    admins = {(route.method, route.path) for route in FARM_ROUTES if route.access == "admin"}
    assert admins == {
        ("PUT", "/v1/vaes/{vae}/pause"),
        ("DELETE", "/v1/vaes/{vae}/pause"),
        ("GET", "/v1/failed"),
        ("GET", "/v1/queued"),
        ("GET", "/v1/devices"),
        ("GET", "/v1/endpoints"),
        ("DELETE", "/v1/devices/{device_id}"),
    }
    assert all(route.access in ("admin", "key") for route in FARM_ROUTES)
