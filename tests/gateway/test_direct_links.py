"""Direct links: the bytes come from S3, for whoever may have them from the gateway, and for nobody else."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.conftest import Serve
from tests.gateway.conftest import Gateway, Keys, StartGateway
from tests.gateway.test_jobs import PACKED
from tests.s3_server import SECRET_KEY, BucketStore
from yarl import URL

from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.settings import Settings


@pytest.fixture
def farm(settings: Settings, bucket: BucketStore) -> Settings:
    """A farm whose pictures lie in a bucket, however small."""
    return settings.model_copy(update={"store": bucket.url, "store_threshold": 100})


async def finished(gateway: Gateway, serve: Serve, farm: Settings, headers: dict[str, str] | None = None) -> dict:
    """The answer about a finished job."""
    async with gateway.client.put("/v1/jobs/mine?vae=demo", data=PACKED, headers=headers) as answer:
        assert answer.status == 202, await answer.text()
    await asyncio.to_thread(serve, settings=farm)
    async with gateway.client.get("/v1/jobs/mine", headers=headers) as answer:
        job: dict = await answer.json()
    assert job["status"] == "finished"
    return job


async def fetch(url: str, method: str = "GET", **options: Any) -> tuple[int, Mapping[str, str], bytes]:
    """What a plain client without a key gets; it follows no redirect."""
    async with (
        aiohttp.ClientSession() as stranger,
        stranger.request(method, URL(url, encoded=True), allow_redirects=False, **options) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


async def test_a_direct_link_gives_a_plain_client_the_picture_under_its_type_and_name(
    start_gateway: StartGateway, farm: Settings, bucket: BucketStore, keys: Keys, serve: Serve
) -> None:
    headers = keys.make("web")
    gateway = await start_gateway(farm, keys=keys.path)
    job = await finished(gateway, serve, farm, headers)
    link = URL(job["results"][0]["direct_url"], encoded=True)

    status, told, data = await fetch(str(link))

    assert (status, told["Content-Type"]) == (200, "image/png")
    assert told["Content-Disposition"] == 'inline; filename="mine-0.png"'
    assert list(bucket.contents().values()) == [data]
    assert (link.origin(), link.query["X-Amz-Expires"]) == (URL(bucket.server.url), "300")
    assert SECRET_KEY not in str(link)
    status, _, part = await fetch(str(link), headers={"Range": "bytes=1-3"})
    assert (status, part) == (206, data[1:4])


async def test_redirect_leads_there_and_without_it_the_gateway_gives_the_bytes(
    start_gateway: StartGateway, farm: Settings, serve: Serve
) -> None:
    gateway = await start_gateway(farm)
    await finished(gateway, serve, farm)
    for path in ("/v1/jobs/mine/image", "/v1/jobs/mine/image/0"):
        status, told, data = await fetch(f"{gateway.url}{path}")
        assert (status, told["Content-Type"], data[1:4]) == (200, "image/png", b"PNG")
        for method in ("GET", "HEAD"):
            status, told, body = await fetch(f"{gateway.url}{path}?redirect=true", method)
            assert (status, told["Cache-Control"], body) == (307, "no-store", b"")
            status, _, body = await fetch(told["Location"], method)
            assert (status, body) == (200, data if method == "GET" else b"")
        async with gateway.client.get(f"{path}?redirect=true") as answer:
            assert await answer.read() == data, "a client that follows redirects gets the picture"
        status, _, body = await fetch(f"{gateway.url}{path}?redirect=false")
        assert (status, body) == (200, data)
    tag = (await fetch(f"{gateway.url}/v1/jobs/mine/image"))[1]["ETag"]
    assert (await fetch(f"{gateway.url}/v1/jobs/mine/image?redirect=1", headers={"If-None-Match": tag}))[0] == 304
    assert (await fetch(f"{gateway.url}/v1/jobs/mine/image?redirect=perhaps"))[0] == 422


async def test_who_may_not_have_the_bytes_gets_no_link(
    start_gateway: StartGateway, farm: Settings, keys: Keys, serve: Serve
) -> None:
    mine, other = keys.make("web"), keys.make("other")
    gateway = await start_gateway(farm, keys=keys.path)
    job = await finished(gateway, serve, farm, mine)
    signed = job["results"][0]["signed_url"]
    address = f"{gateway.url}/v1/jobs/mine/image?redirect=true"
    for expected, url, headers in (
        (307, address, mine),
        (307, f"{signed}&redirect=true", {}),
        (401, address, {}),
        (404, address, other),
        (403, f"{address}&token=x", {}),
        (404, f"{gateway.url}/v1/jobs/another/image?redirect=true", mine),
        (404, f"{gateway.url}/v1/jobs/mine/image/7?redirect=true", mine),
    ):
        status, told, body = await fetch(url, headers=headers)
        assert (status, "Location" in told) == (expected, expected == 307), url
        assert (b"X-Amz" in body) is False
    async with gateway.client.get("/v1/jobs/mine", headers=other) as answer:
        assert answer.status == 404
    async with gateway.client.delete("/v1/jobs/mine", headers=mine) as answer:
        assert answer.status == 204
    assert (await fetch(address, headers=mine))[0] == 410
    async with gateway.client.put("/v1/jobs/later?vae=demo", data=PACKED, headers=mine) as answer:
        assert answer.status == 202
    status, told, _ = await fetch(f"{gateway.url}/v1/jobs/later/image?redirect=true", headers=mine)
    assert (status, "Location" in told) == (409, False)


@pytest.mark.parametrize("store", ["redis", "file", "s3 above a million bytes"])
async def test_what_does_not_lie_in_s3_has_no_link_and_comes_from_the_gateway_though_one_is_asked_for(
    start_gateway: StartGateway, farm: Settings, tmp_path: Path, serve: Serve, store: str
) -> None:
    changes = {"redis": {"store": "redis://"}, "file": {"store": tmp_path.as_uri()}}
    chosen = farm.model_copy(update=changes.get(store, {"store_threshold": 10**6}))
    gateway = await start_gateway(chosen)
    job = await finished(gateway, serve, chosen)
    assert "direct_url" not in job["results"][0]
    status, _, data = await fetch(f"{gateway.url}/v1/jobs/mine/image?redirect=true")
    assert (status, data[1:4]) == (200, b"PNG")


async def test_links_name_the_stores_address_as_clients_see_it_and_live_as_long_as_the_operator_says(
    start_gateway: StartGateway, farm: Settings, serve: Serve
) -> None:
    gateway = await start_gateway(farm, store_public_url="https://s3.example", direct_url_seconds=7)
    link = URL((await finished(gateway, serve, farm))["results"][0]["direct_url"], encoded=True)
    assert str(link.origin()) == "https://s3.example"
    assert link.query["X-Amz-Expires"] == "7"
    for bad in ("s3.example", "https://user:hunter2@s3.example"):
        with pytest.raises(ConfigurationError, match="VAEFARM_STORE_PUBLIC_URL") as refused:
            GatewaySettings.from_env(store_public_url=bad)
        assert "hunter2" not in str(refused.value)


async def test_while_the_store_is_away_pictures_are_503_and_everything_else_is_answered(
    start_gateway: StartGateway, farm: Settings, bucket: BucketStore, serve: Serve
) -> None:
    gateway = await start_gateway(farm)
    await finished(gateway, serve, farm)
    await asyncio.to_thread(bucket.server.stop)
    try:
        answers = await asyncio.gather(*(fetch(f"{gateway.url}/v1/jobs/mine/image") for _ in range(40)))
        assert {status for status, _, _ in answers} == {503}
        assert all("Retry-After" in told for _, told, _ in answers)
        assert b"the store does not answer (get_object: EndpointConnectionError)" in answers[0][2]
        async with gateway.client.get("/v1/jobs/mine") as answer:
            assert answer.status == 200
            assert "direct_url" in (await answer.json())["results"][0], "signing asks nobody"
        async with gateway.client.put("/v1/jobs/new?vae=demo", data=PACKED) as answer:
            assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    finally:
        await asyncio.to_thread(bucket.server.start)
    assert (await fetch(f"{gateway.url}/v1/jobs/mine/image"))[0] == 200


async def test_no_log_tells_a_link_or_what_it_was_signed_with(
    start_gateway: StartGateway, farm: Settings, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "vaefarm_producer")
    caplog.set_level(logging.DEBUG, "aiohttp")
    gateway = await start_gateway(farm)
    await finished(gateway, serve, farm)
    await fetch(f"{gateway.url}/v1/jobs/mine/image?redirect=true")
    for secret in ("X-Amz-Signature", SECRET_KEY):
        assert secret not in caplog.text
