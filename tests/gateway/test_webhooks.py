"""Webhooks: signed, repeated until they are taken, to hosts that the operator allows, and never lost with a gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError
from tests.conftest import Serve
from tests.gateway.conftest import StartGateway

from vaefarm_producer import Farm
from vaefarm_producer.gateway import deliverer
from vaefarm_producer.gateway.webhook_hosts import is_allowed
from vaefarm_shared import keys, webhooks
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings

ARRAY = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)
RAW = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float16"}


@dataclass
class Receiver:
    """Something that webhooks are sent to; it answers with the statuses given, then with 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    called: "asyncio.Queue[tuple[dict[str, str], str]]" = field(default_factory=asyncio.Queue)

    async def handle(self, request: web.Request) -> web.Response:
        await self.called.put((dict(request.headers), await request.text()))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    async def call(self) -> tuple[dict[str, str], str]:
        return await asyncio.wait_for(self.called.get(), 20)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    app = web.Application()
    app.router.add_post("/told", one.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}/told"
    yield one
    await runner.cleanup()


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another at once."""
    monkeypatch.setattr(deliverer, "DELAYS", (0.0,) * 9)
    monkeypatch.setattr(deliverer, "LOOK_SECONDS", 0.05)


async def nothing_due(settings: Settings) -> None:
    """Return once the outbox is empty."""
    with connect(settings.redis_url.get_secret_value()) as connection:
        async with asyncio.timeout(20):
            while await asyncio.to_thread(webhooks.next_due, connection) is not None:
                await asyncio.sleep(0.02)


async def tried(redis_url: str, job_id: str, times: int) -> None:
    """Return once a delivery was tried so often."""
    with connect(redis_url) as connection:
        async with asyncio.timeout(20):
            while int(cast("bytes | None", connection.hget(keys.webhook(job_id), "attempts")) or 0) < times:
                await asyncio.sleep(0.02)


async def test_an_end_is_told_signed_with_the_owners_secret(
    start_gateway: StartGateway, receiver: Receiver, serve: Serve, settings: Settings
) -> None:
    gateway = await start_gateway(webhook_hosts="127.0.0.1")
    query = RAW | {"webhook": receiver.url, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    async with gateway.client.put("/v1/jobs/told", params=query, data=ARRAY.tobytes()) as answer:
        assert answer.status == 202, await answer.text()
    async with gateway.client.get("/v1/webhooks/secret") as answer:
        secret = (await answer.json())["secret"]
    await asyncio.to_thread(serve)

    headers, body = await receiver.call()

    told = Webhook(secret).verify(body, headers)
    assert (told["type"], told["data"]["id"], told["data"]["status"]) == ("job.finished", "told", "finished")
    assert headers["traceparent"] == query["traceparent"]
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 43 + "=").verify(body, headers)
    await nothing_due(settings)


async def test_a_receiver_that_fails_is_called_again_by_the_same_name(
    start_gateway: StartGateway, receiver: Receiver, farm: Farm, settings: Settings
) -> None:
    receiver.statuses = [500, 302, 429]
    job = farm.submit(ARRAY, vae="demo", webhook=receiver.url)
    job.cancel()
    await start_gateway(webhook_hosts="127.0.0.1")

    calls = [await receiver.call() for _ in range(4)]

    assert len({headers["webhook-id"] for headers, _ in calls}) == 1
    assert {json.loads(body)["data"]["status"] for _, body in calls} == {"canceled"}
    await nothing_due(settings)


async def test_one_that_wants_no_more_is_called_no_more(
    start_gateway: StartGateway, receiver: Receiver, farm: Farm, settings: Settings
) -> None:
    receiver.statuses = [410]
    farm.submit(ARRAY, vae="demo", webhook=receiver.url).cancel()
    await start_gateway(webhook_hosts="127.0.0.1")
    await receiver.call()
    await nothing_due(settings)
    assert receiver.called.empty()


async def test_what_a_gateway_had_in_hand_as_it_died_another_delivers(
    start_gateway: StartGateway, receiver: Receiver, farm: Farm, settings: Settings
) -> None:
    job = farm.submit(ARRAY, vae="demo", webhook=receiver.url)
    job.cancel()
    job.discard()
    with connect(settings.redis_url.get_secret_value()) as connection:
        # As a gateway does that is killed before it calls.
        (held,) = webhooks.claim_due(connection, 10, 1.0)
    assert held.job_id == job.id
    await start_gateway(webhook_hosts="127.0.0.1")

    _, body = await receiver.call()

    assert json.loads(body)["data"]["id"] == job.id


async def test_a_host_that_is_not_allowed_is_refused_and_never_called(
    start_gateway: StartGateway, receiver: Receiver, farm: Farm
) -> None:
    gateway = await start_gateway(webhook_hosts="example.com")
    async with gateway.client.post("/v1/jobs", params=RAW | {"webhook": receiver.url}, data=ARRAY.tobytes()) as answer:
        assert answer.status == 422
        assert "VAEFARM_WEBHOOK_HOSTS" in (await answer.json())["error"]
    job = farm.submit(ARRAY, vae="demo", webhook=receiver.url)
    job.cancel()
    await tried(gateway.redis_url, job.id, 4)
    assert receiver.called.empty()


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://example.com/x", True),
        ("https://a.example.org:8443/x", True),
        ("https://EXAMPLE.com", True),
        ("https://example.org", False),
        ("https://example.com.evil.example", False),
        ("https://example.com@evil.example/", False),
        ("https://me:pw@example.com/", False),
        ("ftp://example.com/", False),
        ("https://example.com:99999/", False),
        ("https:///example.com", False),
    ],
)
def test_only_named_hosts_are_allowed(url: str, allowed: bool) -> None:
    assert is_allowed(url, "example.com, *.example.org") is allowed
