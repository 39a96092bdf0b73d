"""Signed URLs: one job, one purpose, one while."""

import asyncio
import time
from unittest.mock import patch

import aiohttp
import pytest
import redis
from tests.conftest import Serve
from tests.gateway.conftest import Gateway, Keys
from tests.gateway.test_jobs import PACKED
from yarl import URL

from vaefarm_producer.gateway.desk import Desk
from vaefarm_producer.gateway.secret import Secret, derive, find_secret
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_producer.gateway.signing import SIGNER
from vaefarm_shared.errors import ConfigurationError, FarmUnavailable, Forbidden
from vaefarm_shared.settings import Settings

HOUR = 3600


async def finished(gateway: Gateway, headers: dict[str, str], serve: Serve, job_id: str = "mine") -> tuple[URL, URL]:
    """The signed URLs of a finished job's picture and events."""
    async with gateway.client.put(f"/v1/jobs/{job_id}?vae=demo", data=PACKED, headers=headers) as answer:
        assert answer.status == 202, await answer.text()
    await asyncio.to_thread(serve)
    async with gateway.client.get(f"/v1/jobs/{job_id}", headers=headers) as answer:
        job = await answer.json()
    assert job["status"] == "finished"
    return URL(job["results"][0]["signed_url"]), URL(job["events_url"])


async def get(url: URL, headers: dict[str, str] | None = None) -> int:
    async with aiohttp.ClientSession() as stranger, stranger.get(url, headers=headers) as answer:
        await answer.read()
        return answer.status


@pytest.fixture
async def signed(start_gateway, keys: Keys, serve: Serve) -> tuple[URL, URL]:
    headers = keys.make("web")
    return await finished(await start_gateway(keys=keys.path), headers, serve)


async def test_a_signed_url_shows_its_picture_and_events_to_anyone(signed: tuple[URL, URL]) -> None:
    picture, events = signed
    assert await get(picture) == 200
    assert await get(events) == 200
    assert await get(picture.with_query(None)) == 401


async def test_it_is_good_for_no_other_job(signed: tuple[URL, URL]) -> None:
    picture, _ = signed
    assert await get(picture.with_path("/v1/jobs/other/image/0", keep_query=True)) == 403
    assert await get(picture.with_path("/v1/jobs/min/image/0", keep_query=True)) == 403


async def test_the_border_between_id_and_token_cannot_be_moved(start_gateway) -> None:
    """No id has a dot today; the token must not depend on that."""
    gateway = await start_gateway()
    (await gateway.client.get("/v1/jobs/x/image")).release()
    signer = gateway.app[SIGNER]
    token = signer._signers["picture"].sign("a.b").decode()
    signer.check("picture", "a.b", token.removeprefix("a.b."))
    with pytest.raises(Forbidden, match="not for that"):
        signer.check("picture", "a", token.removeprefix("a."))


async def test_it_is_good_for_no_other_purpose(signed: tuple[URL, URL]) -> None:
    picture, events = signed
    assert await get(events.with_query(picture.query)) == 403
    assert await get(picture.with_query(events.query)) == 403
    for path in ("/v1/jobs/mine", "/v1/events"):
        assert await get(picture.with_path(path, keep_query=True)) == 401
    async with aiohttp.ClientSession() as stranger, stranger.delete(picture) as answer:
        assert answer.status == 405
    job = picture.with_path("/v1/jobs/mine", keep_query=True)
    async with aiohttp.ClientSession() as stranger, stranger.delete(job) as answer:
        assert answer.status == 401


async def test_every_changed_character_spoils_it(signed: tuple[URL, URL]) -> None:
    token = signed[0].query["token"]
    for place in range(0, len(token) - 1, 7):
        other = "A" if token[place] != "A" else "B"
        changed = token[:place] + other + token[place + 1 :]
        assert await get(signed[0].with_query(token=changed)) == 403
    for changed in ("", "x", token + "x", token * 2, "\r\nX: y", "ä", "." * 50):
        assert await get(signed[0].with_query(token=changed)) == 403


async def test_it_is_good_until_its_time_is_past(start_gateway, keys: Keys, serve: Serve) -> None:
    headers = keys.make("web")
    gateway = await start_gateway(keys=keys.path, url_seconds=HOUR)
    now = time.time()
    with patch("itsdangerous.timed.time.time", lambda: now - HOUR + 60):
        fresh, _ = await finished(gateway, headers, serve)
    with patch("itsdangerous.timed.time.time", lambda: now - HOUR - 60):
        async with gateway.client.get("/v1/jobs/mine", headers=headers) as answer:
            old = URL((await answer.json())["results"][0]["signed_url"])
    assert await get(fresh) == 200
    assert await get(old) == 403


async def test_a_bad_one_is_refused_where_no_key_is_needed_too(start_gateway, serve: Serve) -> None:
    picture, _ = await finished(await start_gateway(), {}, serve)
    assert await get(picture) == 200
    assert await get(picture.with_query(token="x")) == 403
    assert await get(picture.with_query(None)) == 200


async def test_a_key_counts_where_both_are_given(start_gateway, keys: Keys, serve: Serve) -> None:
    headers, other = keys.make("web"), keys.make("other")
    picture, _ = await finished(await start_gateway(keys=keys.path), headers, serve)
    assert await get(picture.with_query(token="x"), headers) == 200
    assert await get(picture, other) == 404


async def test_gateways_of_a_farm_read_one_anothers(start_gateway, keys: Keys, serve: Serve) -> None:
    headers = keys.make("web")
    picture, _ = await finished(await start_gateway(keys=keys.path), headers, serve)
    second = await start_gateway(keys=keys.path)
    assert await get(picture.with_port(URL(second.url).port)) == 200
    stranger = await start_gateway(keys=keys.path, secret="another secret of an operator")
    assert await get(picture.with_port(URL(stranger.url).port)) == 403


async def test_the_first_gateways_secret_is_every_gateways(settings: Settings, connection: redis.Redis) -> None:
    desks = [Desk(settings, GatewaySettings()) for _ in range(4)]
    secrets = await asyncio.gather(*(Secret(GatewaySettings()).get(desk) for desk in desks))
    assert len(set(secrets)) == 1
    assert len(bytes.fromhex(secrets[0].decode())) == 32
    assert find_secret(connection) == secrets[0]
    for desk in desks:
        await desk.close()


def test_of_two_gateways_that_find_none_at_a_time_both_end_with_one(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[bytes] = []
    get = connection.get

    def get_before_another_sets(name: str) -> object:
        found = get(name)
        if not first:
            first.append(b"")
            first[0] = find_secret(connection)
        return found

    monkeypatch.setattr(connection, "get", get_before_another_sets)
    assert find_secret(connection) == first[0]


async def test_a_secret_that_was_known_counts_while_redis_is_away(settings: Settings) -> None:
    desk, secret = Desk(settings, GatewaySettings()), Secret(GatewaySettings())
    known = await secret.get(desk)
    secret._until = 0.0
    away = Desk(
        settings.model_copy(update={"redis_url": type(settings.redis_url)("redis://127.0.0.1:1")}), desk.settings
    )
    assert await secret.get(away) == known
    with pytest.raises(FarmUnavailable):
        await Secret(GatewaySettings()).get(away)
    for one in (desk, away):
        await one.close()


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="VAEFARM_SECRET"):
        Secret(GatewaySettings.from_env(secret="hunter2"))


def test_what_is_derived_for_one_owner_or_purpose_is_no_others() -> None:
    found = {derive(b"secret", purpose, owner) for purpose in ("a", "ab") for owner in ("", "b", "bc")}
    assert len(found) == 6
