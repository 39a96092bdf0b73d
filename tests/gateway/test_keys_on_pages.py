"""Keys on the farm's pages: the form for one, the cookie that keeps it, and whose jobs it shows."""

import asyncio
from contextlib import suppress

import aiohttp
import pytest
from tests.conftest import Serve
from tests.gateway.conftest import Gateway, Keys, StartGateway, soon
from tests.gateway.test_pages import LATENTS, followed, section, shown

from vaefarm_producer import Farm


async def enter(gateway: Gateway, key: str, wanted: str = "/") -> aiohttp.ClientResponse:
    """Send the form with a key; cookies go into the client's jar."""
    form = {"key": key, "next": wanted}
    answer = await gateway.client.post("/login", data=form, allow_redirects=False)
    answer.release()
    return answer


def key_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture(autouse=True)
def cookies_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Browsers keep cookies of addresses; aiohttp's jar does where it is told to."""
    make = aiohttp.CookieJar
    monkeypatch.setattr("aiohttp.client.CookieJar", lambda **options: make(**{**options, "unsafe": True}))


@pytest.mark.parametrize("path", ["/", "/jobs/some", "/vaes/demo"])
async def test_without_a_key_nothing_is_shown_but_the_form_for_it(
    start_gateway: StartGateway, keys: Keys, farm: Farm, path: str
) -> None:
    keys.make("someone")
    gateway = await start_gateway(keys=keys.path)
    farm.submit(LATENTS, vae="demo", job_id="some", metadata={"prompt": "a secret"})

    status, text = await shown(gateway, path)
    assert status == 401
    assert f'<input type="hidden" name="next" value="{path}">' in text
    assert "secret" not in text
    assert "waiting" not in text
    for stream in ("/page/events", "/page/vaes/demo/events", "/page/jobs/some/events", "/page/thumbnails/some/0"):
        async with gateway.client.get(stream) as answer:
            assert (answer.status, (await answer.json())["code"]) == (401, "Unauthorized")
            assert answer.headers.getall("WWW-Authenticate") == ['Bearer realm="vaefarm"'], "browsers would ask"


async def test_calls_of_a_page_whose_key_is_gone_have_no_browser_ask_for_a_password(
    start_gateway: StartGateway, keys: Keys
) -> None:
    key = key_of(keys.make("boss", admin=True))
    keys.make("another", admin=True)
    gateway = await start_gateway(keys=keys.path)
    await enter(gateway, key)
    keys.make("boss", admin=True)

    async def challenges() -> list[str]:
        # Whatever is under way with the key as it goes is ended.
        with suppress(aiohttp.ServerDisconnectedError):
            async with gateway.client.post("/v1/jobs/some/retry", headers={"Origin": gateway.url}) as answer:
                return answer.headers.getall("WWW-Authenticate", [])
        return []

    await soon("the key is gone", challenges)
    assert await challenges() == ['Bearer realm="vaefarm"']


async def test_a_key_that_was_entered_is_kept_where_no_script_sees_it(
    start_gateway: StartGateway, keys: Keys, farm: Farm
) -> None:
    key = key_of(keys.make("boss", admin=True))
    gateway = await start_gateway(keys=keys.path)
    farm.submit(LATENTS, vae="demo", job_id="some")

    assert (await enter(gateway, "vf_wrong")).status == 401
    status, text = await shown(gateway, "/login")
    assert (status, 'name="key"' in text) == (401, True), "its address, asked for again, leads to the form"
    assert (await shown(gateway, "/"))[0] == 401
    answer = await enter(gateway, key, "/jobs/some")
    assert (answer.status, answer.headers["Location"]) == (303, "/jobs/some")
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie, "the gateway is called over http"
    assert (await shown(gateway, "/jobs/some"))[0] == 200
    async with gateway.client.post("/logout", allow_redirects=False) as out:
        assert out.status == 303
    assert (await shown(gateway, "/jobs/some"))[0] == 401


async def test_behind_https_the_cookie_is_sent_over_nothing_else(start_gateway: StartGateway, keys: Keys) -> None:
    key = key_of(keys.make("boss", admin=True))
    gateway = await start_gateway(keys=keys.path, public_url="https://farm.example")
    assert "Secure" in (await enter(gateway, key)).headers["Set-Cookie"]


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/v1/jobs", "/jobs/../x", "javascript:x"])
async def test_a_key_leads_to_no_page_but_the_gateways_own(
    start_gateway: StartGateway, keys: Keys, wanted: str
) -> None:
    key = key_of(keys.make("boss", admin=True))
    gateway = await start_gateway(keys=keys.path)
    assert (await enter(gateway, key, wanted)).headers["Location"] == "/"


async def test_a_cookie_changes_nothing_unless_a_page_of_this_gateway_asks(
    start_gateway: StartGateway, keys: Keys, farm: Farm
) -> None:
    key = key_of(keys.make("boss", admin=True))
    gateway = await start_gateway(keys=keys.path, allowed_origins="https://app.example")
    job = farm.submit(LATENTS, vae="demo")
    await enter(gateway, key)

    async def cancel(**headers: str) -> int:
        async with gateway.client.post(f"/v1/jobs/{job.id}/cancel", headers=headers) as answer:
            return answer.status

    assert await cancel() == 401, "no page says that it asks"
    assert await cancel(Origin="https://app.example") == 401, "a page that may call brings a key of its own"
    assert await cancel(Origin="https://evil.example") == 403
    async with gateway.client.get(f"/v1/jobs/{job.id}", headers={"Origin": "https://app.example"}) as answer:
        assert answer.status == 401
    assert job.status() == "queued"
    assert await cancel(Origin=gateway.url) == 200
    assert job.status() == "canceled"


async def test_a_holder_of_a_key_sees_no_job_of_others(start_gateway: StartGateway, keys: Keys, serve: Serve) -> None:
    mine, other = keys.make("mine"), keys.make("other")
    gateway = await start_gateway(keys=keys.path)
    raw = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float32"}
    for name, headers in (("of-mine", mine), ("of-other", other)):
        async with gateway.client.put(f"/v1/jobs/{name}", params=raw, data=LATENTS.tobytes(), headers=headers) as sent:
            assert sent.status == 202
    await asyncio.to_thread(serve)

    await enter(gateway, key_of(mine))
    status, text = await shown(gateway, "/")
    assert status == 200
    assert "/jobs/of-mine" in text
    assert "of-other" not in text
    assert (await shown(gateway, "/jobs/of-mine"))[0] == 200
    status, text = await shown(gateway, "/jobs/of-other")
    assert (status, "is not known" in text) == (404, True)
    async with followed(gateway, "/page/events") as news:
        found = await section(news, "pictures", "/jobs/of-mine")
    assert "of-other" not in found
    assert "Pause" not in (await shown(gateway, "/vaes/demo"))[1], "that is for admins"


async def test_the_stream_of_a_page_ends_with_its_key(start_gateway: StartGateway, keys: Keys) -> None:
    key = key_of(keys.make("boss", admin=True))
    keys.make("another", admin=True)
    gateway = await start_gateway(keys=keys.path)
    await enter(gateway, key)
    async with gateway.client.get("/page/events") as answer:
        assert answer.status == 200
        keys.make("boss", admin=True)
        async with asyncio.timeout(20):
            with suppress(aiohttp.ClientError):
                while await answer.content.readany():
                    pass
    assert (await shown(gateway, "/"))[0] == 401
