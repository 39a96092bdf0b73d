"""Who is let in, what they see, and how much they may ask."""

import asyncio
import base64
import json
import logging
import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.conftest import RedisServer, Serve
from tests.gateway.conftest import Gateway, Keys, raw, soon
from tests.gateway.test_jobs import ARRAY, PACKED
from yarl import URL

from vaefarm_producer import Farm
from vaefarm_producer.gateway.app import ROUTES, create_app
from vaefarm_producer.gateway.farm_routes import FARM_ROUTES
from vaefarm_producer.gateway.problems import SAFE_HEADERS
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.settings import Settings

KEYED = [route for route in ROUTES + FARM_ROUTES if route.access != "open"]
FOR_ADMINS = [route for route in KEYED if route.access == "admin"]


def address(path: str) -> str:
    """A place that a route leads to."""
    return re.sub(r"\{\w+\}", "mine", path.replace("{index}", "0"))


async def ask(gateway: Gateway, headers: dict[str, str] | None, path: str = "/v1/jobs/nobody") -> int:
    async with gateway.client.get(path, headers=headers) as answer:
        return answer.status


async def put(gateway: Gateway, headers: dict[str, str], job_id: str = "mine") -> int:
    async with gateway.client.put(f"/v1/jobs/{job_id}?vae=demo", data=PACKED, headers=headers) as answer:
        return answer.status


@pytest.mark.parametrize("route", KEYED, ids=lambda route: f"{route.method} {route.path}")
async def test_without_a_key_nothing_is_let_in_but_what_is_open(start_gateway, keys: Keys, route) -> None:
    keys.make("web")
    gateway = await start_gateway(keys=keys.path)
    async with gateway.client.request(route.method, address(route.path)) as answer:
        assert answer.status == 401
        challenges = answer.headers.getall("WWW-Authenticate")
        assert [one.split()[0] for one in challenges] == ["Bearer", "Basic"]
        assert (await answer.json())["code"] == "Unauthorized"


@pytest.mark.parametrize("route", FOR_ADMINS, ids=lambda route: f"{route.method} {route.path}")
async def test_what_is_for_admins_is_closed_to_other_keys(start_gateway, keys: Keys, route) -> None:
    headers = keys.make("web")
    gateway = await start_gateway(keys=keys.path)
    async with gateway.client.request(route.method, address(route.path), headers=headers) as answer:
        assert (answer.status, (await answer.json())["code"]) == (403, "Forbidden")


@pytest.mark.parametrize(
    "value",
    ["Bearer vf_wrong", "Bearer", "Bearer  ", "Bearer vf_\u00e4", "Basic dXNlcjp2Zl93cm9uZw==", "Basic ???",
     "Basic /w==", "Digest x", "vf_x"],
)  # fmt: skip
async def test_a_wrong_key_is_refused(start_gateway, keys: Keys, value: str) -> None:
    keys.make("web")
    gateway = await start_gateway(keys=keys.path)
    assert await ask(gateway, {"Authorization": value}) == 401


async def test_a_hash_from_the_file_is_no_key(start_gateway, keys: Keys) -> None:
    keys.make("web")
    digest = keys.path.read_text().partition("sha256:")[2][:64]
    gateway = await start_gateway(keys=keys.path)
    for stolen in (digest, f"sha256:{digest}"):
        assert await ask(gateway, {"Authorization": f"Bearer {stolen}"}) == 401


async def test_a_key_is_taken_as_bearer_and_in_the_address(start_gateway, keys: Keys) -> None:
    headers = keys.make("web")
    gateway = await start_gateway(keys=keys.path)
    assert await ask(gateway, headers) == 404
    assert await ask(gateway, {"Authorization": headers["Authorization"].replace("Bearer", "bearer")}) == 404
    key = headers["Authorization"].partition(" ")[2]
    for user in ("anyone", ""):
        basic = base64.b64encode(f"{user}:{key}".encode()).decode()
        assert await ask(gateway, {"Authorization": f"Basic {basic}"}) == 404
    url = URL(gateway.url).with_user("vaefarm").with_password(key) / "v1/jobs/nobody"
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        assert answer.status == 404


async def test_on_loopback_without_keys_everyone_is_admin_and_with_keys_nobody(
    start_gateway, keys: Keys, farm: Farm
) -> None:
    job = farm.submit(ARRAY, vae="demo")
    assert await ask(await start_gateway(), None, f"/v1/jobs/{job.id}") == 200
    keys.make("web")
    assert await ask(await start_gateway(keys=keys.path), None, f"/v1/jobs/{job.id}") == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "farm.example", ""])
def test_a_gateway_that_others_can_call_does_not_start_without_keys(settings: Settings, host: str) -> None:
    with pytest.raises(ConfigurationError, match="vaefarm keys add"):
        create_app(settings, GatewaySettings(), host)


def test_nor_does_one_behind_a_public_address(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="vaefarm keys add"):
        create_app(settings, GatewaySettings(public_url="https://farm.example"))
    create_app(settings, GatewaySettings(public_url="http://localhost:8000"))


@pytest.mark.parametrize("text", [None, "", "[[key]"])
def test_nor_does_one_whose_file_of_keys_has_none(settings: Settings, keys: Keys, text: str | None) -> None:
    if text is not None:
        keys.path.write_text(text)
    with pytest.raises(ConfigurationError, match="keys.toml"):
        create_app(settings, GatewaySettings(keys=keys.path))


async def test_keys_come_and_go_while_the_gateway_runs(start_gateway, keys: Keys) -> None:
    first = keys.make("web")
    gateway = await start_gateway(keys=keys.path)
    second = keys.make("other")
    await soon("the new key is known", lambda: _is(gateway, second, 404))
    assert await ask(gateway, first) == 404
    third = keys.make("web")
    await soon("the replaced key is gone", lambda: _is(gateway, first, 401))
    assert await ask(gateway, third) == 404


async def _is(gateway: Gateway, headers: dict[str, str], status: int) -> bool:
    return await ask(gateway, headers) == status


async def test_a_broken_file_keeps_the_old_keys_and_is_logged(
    start_gateway, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    headers = keys.make("web")
    gateway = await start_gateway(keys=keys.path)
    whole = keys.path.read_text()
    for broken in ("[[key]", None):
        caplog.clear()
        keys.path.write_text(broken) if broken else keys.path.unlink()
        await soon("it is logged", lambda: _logged(caplog, "the keys stay as they were"))
        assert await ask(gateway, headers) == 404
    keys.path.write_text(whole.replace('"web"', '"renamed"'))
    caplog.set_level(logging.INFO)
    await soon("the mended file is read", lambda: _logged(caplog, "1 keys now"))
    assert await ask(gateway, headers) == 404


async def _logged(caplog: pytest.LogCaptureFixture, what: str) -> bool:
    return what in caplog.text


async def test_a_removed_key_ends_the_streams_it_had_open(start_gateway, keys: Keys) -> None:
    headers, other = keys.make("web"), keys.make("other")
    gateway = await start_gateway(keys=keys.path)
    async with (
        gateway.client.get("/v1/events", headers=headers) as ended,
        gateway.client.get("/v1/events", headers=other) as left,
    ):
        assert (ended.status, left.status) == (200, 200)
        keys.make("web")
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(ended.content.read(), 20)
        assert not left.content.at_eof()
        assert await ask(gateway, other) == 404


async def test_another_keys_job_does_not_exist_wherever_it_is_asked_for(
    start_gateway, keys: Keys, serve: Serve
) -> None:
    owner, other, admin = keys.make("web"), keys.make("other"), keys.make("ops", admin=True)
    gateway = await start_gateway(keys=keys.path)
    assert await put(gateway, owner) == 202
    await asyncio.to_thread(serve)
    for method, path in (
        ("GET", ""), ("GET", "/image"), ("GET", "/image/0"), ("GET", "/events"), ("POST", "/cancel"),
        ("POST", "/retry"), ("DELETE", ""), ("PUT", "?vae=demo"),
    ):  # fmt: skip
        told = []
        for job_id in ("mine", "nobody"):
            if job_id == "nobody" and method == "PUT":
                continue
            async with gateway.client.request(
                method, f"/v1/jobs/{job_id}{path}", headers=other, data=PACKED if method == "PUT" else None
            ) as answer:
                assert answer.status == 404, (method, path)
                told.append((await answer.text()).replace(job_id, "ID"))
        assert len(set(told)) == 1, (method, path)
    ids = json.dumps({"ids": ["mine"]})
    for path in ("/v1/statuses", "/v1/cancels"):
        async with gateway.client.post(path, data=ids, headers=other) as answer:
            assert await answer.json() == {"statuses": [None]}
    for path in ("", "/image", "/events"):
        assert await ask(gateway, owner, f"/v1/jobs/mine{path}") == 200
        assert await ask(gateway, admin, f"/v1/jobs/mine{path}") == 200


async def test_events_of_all_jobs_are_those_that_the_key_may_see(start_gateway, keys: Keys) -> None:
    owner, other, admin = keys.make("web"), keys.make("other"), keys.make("ops", admin=True)
    gateway = await start_gateway(keys=keys.path)
    async with (
        gateway.client.get("/v1/events", headers=other) as others,
        gateway.client.get("/v1/events", headers=admin) as admins,
    ):
        await put(gateway, owner, "mine")
        await put(gateway, other, "theirs")
        assert await _ids(others, 1) == ["theirs"]
        assert await _ids(admins, 2) == ["mine", "theirs"]


async def _ids(answer: aiohttp.ClientResponse, count: int) -> list[str]:
    """The ids of a stream's first events."""
    found: list[str] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            line = (await answer.content.readline()).decode()
            if line.startswith("data:") and (data := json.loads(line[5:])):
                found.append(data["id"])
    return found


async def test_jobs_of_admins_and_of_redis_are_no_other_keys(start_gateway, keys: Keys, farm: Farm) -> None:
    web_key, admin = keys.make("web"), keys.make("ops", admin=True)
    gateway = await start_gateway(keys=keys.path)
    job = farm.submit(ARRAY, vae="demo")
    assert await put(gateway, admin, "of-ops") == 202
    for job_id in (job.id, "of-ops"):
        assert await ask(gateway, web_key, f"/v1/jobs/{job_id}") == 404
        assert await ask(gateway, admin, f"/v1/jobs/{job_id}") == 200
    assert await put(gateway, web_key, "of-ops") == 404


async def test_a_rate_is_one_over_all_gateways_and_says_when_to_come_again(start_gateway, keys: Keys) -> None:
    limited, free = keys.make("web", rate="3/hour"), keys.make("other", rate="1000/hour; 100000/day")
    first, second = await start_gateway(keys=keys.path), await start_gateway(keys=keys.path)
    assert [await ask(one, limited) for one in (first, second, first)] == [404] * 3
    for gateway in (first, second):
        async with gateway.client.get("/v1/jobs/nobody", headers=limited) as answer:
            assert answer.status == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= 3600
            assert (await answer.json())["code"] == "TooManyRequests"
        assert await ask(gateway, free) == 404


async def test_a_key_has_no_more_unended_jobs_than_its_quota(start_gateway, keys: Keys, serve: Serve) -> None:
    limited, free = keys.make("web", most=2), keys.make("other")
    gateway = await start_gateway(keys=keys.path)
    assert [await put(gateway, limited, f"job-{number}") for number in range(2)] == [202, 202]
    async with gateway.client.post("/v1/jobs?vae=demo", data=PACKED, headers=limited) as answer:
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await answer.json())["code"] == "QuotaExceeded"
    assert await put(gateway, limited, "job-0") == 202, "the same again is no more"
    assert await put(gateway, free, "theirs") == 202
    await asyncio.to_thread(serve)
    assert await put(gateway, limited, "job-3") == 202


async def test_a_rates_count_has_a_life_and_a_key_under_ours(start_gateway, keys: Keys, connection) -> None:
    headers = keys.make("web", rate="3/hour")
    await ask(await start_gateway(keys=keys.path), headers)
    [name] = [key for key in connection.scan_iter("*LIMITER*")]
    assert name.startswith(b"vaefarm:rate:")
    assert 0 < connection.ttl(name) <= 7200


async def test_signed_urls_are_not_counted(start_gateway, keys: Keys, serve: Serve) -> None:
    headers = keys.make("web", rate="2/hour")
    gateway = await start_gateway(keys=keys.path)
    await put(gateway, headers)
    await asyncio.to_thread(serve)
    async with gateway.client.get("/v1/jobs/mine", headers=headers) as answer:
        url = (await answer.json())["results"][0]["signed_url"]
    assert [await ask(gateway, None, url.removeprefix(gateway.url)) for _ in range(5)] == [200] * 5
    assert await ask(gateway, headers) == 429


async def test_redis_away_is_503_also_where_a_rate_or_a_secret_is_wanted_and_recovers(
    start_gateway, keys: Keys, settings: Settings, server: RedisServer, tmp_path: Path
) -> None:
    limited, free = keys.make("web", rate="100/second"), keys.make("other")
    own = RedisServer(server.binary, tmp_path)
    farm = settings.model_copy(update={"redis_url": type(settings.redis_url)(own.url)})
    gateway = await start_gateway(farm, keys=keys.path)
    try:
        for headers in (limited, free):
            async with gateway.client.get("/v1/jobs/nobody", headers=headers) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) >= 1
                assert (await answer.json())["code"] == "FarmUnavailable"
        await asyncio.to_thread(own.start)
        for headers in (limited, free):
            await soon("it recovers", partial(_is, gateway, headers, 404))
        own.stop()
        assert await ask(gateway, limited) == 503
        assert await ask(gateway, {"Authorization": "Bearer vf_wrong"}) == 401
    finally:
        own.stop()


async def test_unknown_places_are_404_and_wrong_methods_405_and_tell_no_more(start_gateway, keys: Keys) -> None:
    keys.make("web")
    gateway = await start_gateway(keys=keys.path)
    async with gateway.client.get("/v1/secrets/../../etc/passwd<script>") as answer:
        assert answer.status == 404
        assert set(await answer.json()) == {"error", "code"}
        assert "passwd" not in await answer.text()
        assert (await answer.json())["error"] == "there is nothing at this address; /docs shows every call"
    async with gateway.client.delete("/v1/statuses") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert (await answer.json())["error"] == "this address does not take DELETE; expected POST"
    async with gateway.client.head("/v1/jobs/nobody") as answer:
        assert answer.status == 401


async def test_no_answer_is_without_nosniff_and_a_policy(start_gateway, keys: Keys) -> None:
    headers = keys.make("web", rate="2/hour")
    gateway = await start_gateway(keys=keys.path)
    seen = set()
    for path, sent in (
        ("/openapi.json", {}), ("/nowhere", {}), ("/v1/statuses", {}), ("/v1/jobs/nobody", {}), ("/v1/jobs/x", headers),
        ("/v1/jobs/a--b", headers), ("/v1/jobs/x", headers), ("/openapi.json", {"Host": "evil.example"}),
    ):  # fmt: skip
        async with gateway.client.get(path, headers=sent) as answer:
            seen.add(answer.status)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src" in answer.headers["Content-Security-Policy"]
            assert set(SAFE_HEADERS) <= set(answer.headers)
    assert seen == {200, 401, 403, 404, 405, 422, 429}
    async with gateway.client.options("/v1/statuses") as answer:
        assert set(SAFE_HEADERS) <= set(answer.headers)


INJECTION = b"x%0d%0aX-Injected:%20yes%0d%0a%0d%0a<html>"


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/jobs/%b",
        b"GET /v1/jobs/%b/image",
        b"GET /v1/jobs/mine/image/%b",
        b"GET /v1/jobs/mine/image?token=%b",
        b"DELETE /v1/jobs/%b",
        b"POST /v1/jobs?vae=%b&shape=1,4,8,8&dtype=float16",
        b"POST /v1/jobs?vae=demo&image_format=%b",
        b"POST /v1/jobs?vae=demo&%b=1",
        b"PUT /v1/jobs/%b?vae=demo",
        b"GET /docs/%b",
        b"GET /%b",
    ],
)
async def test_nothing_of_a_request_splits_an_answers_headers(gateway: Gateway, line: bytes) -> None:
    await put(gateway, {})
    head = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    answer = await raw(gateway.url, (line % INJECTION) + head)
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert b" 4" in headers[:14]
    assert b"injected" not in headers.lower()
    assert body.startswith(b'{"error"')
    assert answer.count(b"HTTP/1.1") == 1


async def test_an_upload_that_trickles_is_ended(start_gateway) -> None:
    gateway = await start_gateway(body_seconds=0.2)
    head = b"PUT /v1/jobs/slow?vae=demo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\nConnection: close\r\n\r\nab"
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(gateway.url).port)
    writer.write(head)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("before", [b"", b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
async def test_headers_that_never_end_lose_their_connection(settings: Settings, before: bytes) -> None:
    """aiohttp's keepalive is the limit of that too, on a new connection and behind an answer, however they trickle."""
    runner = web.AppRunner(create_app(settings, GatewaySettings()), keepalive_timeout=0.3, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
        writer.write(before + b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        trickle = asyncio.create_task(_trickle(writer))
        told = b""
        with suppress(ConnectionResetError):
            # What still trickles in may meet the end as a reset.
            told = await asyncio.wait_for(reader.read(), 20)
        assert b" 400 " not in told
        trickle.cancel()
        writer.close()
    finally:
        await runner.cleanup()


async def _trickle(writer: asyncio.StreamWriter) -> None:
    for number in range(10_000):
        writer.write(b"X-%d: y\r\n" % number)
        await asyncio.sleep(0.01)
