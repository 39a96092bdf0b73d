"""The farm's pages over HTTP: what they show and how they go on, what of it stays text, and what it costs."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import pytest
import redis
from PIL import Image
from tests.conftest import Serve
from tests.gateway.conftest import Gateway, Keys, StartGateway, soon

from vaefarm_producer import Farm
from vaefarm_producer.gateway.page import board, job_page
from vaefarm_producer.gateway.page.thumbnails import small
from vaefarm_shared import workers
from vaefarm_shared.catalogue import Catalogue
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode

LATENTS = np.zeros((1, 4, 8, 8), np.float32)
PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


class Failing(FakeDecoder):
    """Decodes nothing."""

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        raise RuntimeError("no such luck")


async def shown(gateway: Gateway, path: str, **headers: str) -> tuple[int, str]:
    async with gateway.client.get(path, headers=PAGE | headers) as answer:
        return answer.status, await answer.text()


@asynccontextmanager
async def followed(gateway: Gateway, path: str, **headers: str) -> AsyncIterator[asyncio.Queue[dict[str, str]]]:
    """The sections that a page is sent, as they come."""
    found: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    async with gateway.client.get(path, headers={"Accept": "text/event-stream"} | headers) as answer:
        assert answer.status == 200, await answer.text()

        async def read() -> None:
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    found.put_nowait(json.loads(line.removeprefix(b"data: ")))

        reading = asyncio.create_task(read())
        try:
            yield found
        finally:
            reading.cancel()


async def section(queue: asyncio.Queue[dict[str, str]], name: str, text: str) -> str:
    """A section once it holds a text."""
    async with asyncio.timeout(30):
        while text not in (found := (await queue.get()).get(name, "")):
            pass
    return found


async def test_the_root_is_a_page_for_browsers_and_ok_for_everyone_else(gateway: Gateway) -> None:
    status, text = await shown(gateway, "/")
    assert (status, text.count("<h1>The farm</h1>")) == (200, 1)
    async with gateway.client.get("/") as answer:
        assert (answer.status, await answer.text(), answer.headers["Vary"]) == (200, "Ok", "Accept")


async def test_what_others_wrote_stays_text(
    gateway: Gateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    farm.submit(LATENTS, vae="demo", job_id="fine", metadata={"prompt": ATTACK, ATTACK: ATTACK})
    await asyncio.to_thread(serve)
    farm.submit(LATENTS, vae="demo", job_id="failed", metadata={"prompt": ATTACK})
    connection.sadd("rq:workers", "rq:worker:listed")
    described = {"vaes": {"demo": "r", ATTACK: "r"}, "sizes": {}, "device": ATTACK, "host": ATTACK, "hot": [ATTACK]}
    state = {"vae": "demo", "name": ATTACK, "url": ATTACK, "state": "open", "last_error": ATTACK}
    workers.publish_worker(connection, "listed", {**described, "device_fault": ATTACK, "endpoints": [state]})
    connection.hset("vaefarm:job:failed", mapping={"status": "failed", "reason": ATTACK, "last_error": ATTACK + "!"})
    connection.zadd("vaefarm:failures", {"failed": 1.0})
    connection.hset("vaefarm:quarantine", ATTACK, json.dumps({"reason": ATTACK, "since": 1.0}))

    for path in ("/", "/jobs/fine", "/jobs/failed", "/vaes/demo"):
        status, text = await shown(gateway, path)
        assert status == 200
        assert "&lt;script&gt;alert(1)" in text, path
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert not re.search(r"\son\w+=", text.replace("&lt;img src=x onerror=", "")), "no handler stands in a page"


@pytest.mark.parametrize("path", ["/", "/jobs/some", "/vaes/demo", "/jobs/unknown", "/vaes/unknown"])
async def test_a_page_runs_and_loads_the_gateways_own_files_alone(gateway: Gateway, farm: Farm, path: str) -> None:
    farm.submit(LATENTS, vae="demo", job_id="some")
    async with gateway.client.get(path, headers=PAGE) as answer:
        text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "same-origin", "forms of a page without say that no origin sends them"
    for address in re.findall(r'(?:src|href|action)="([^"]*)"', text):
        assert address.startswith(("/", "#")), "nothing is loaded from elsewhere"
        assert not address.startswith("//")
    assert not re.search(r"<style|\sstyle=|<script>", text)


async def test_files_of_pages_are_open_and_there_are_no_others(start_gateway: StartGateway, keys: Keys) -> None:
    keys.make("someone")
    gateway = await start_gateway(keys=keys.path)
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        async with gateway.client.get(f"/page/{name}") as answer:
            assert (answer.status, answer.content_type) == (200, kind)
            tag = answer.headers["ETag"]
        async with gateway.client.get(f"/page/{name}", headers={"If-None-Match": tag}) as again:
            assert again.status == 304
    for name in ("board.py", "..%2Fboard.py", "__init__.py", "farm.html"):
        async with gateway.client.get(f"/page/{name}") as answer:
            assert answer.status == 404


async def test_a_job_is_followed_from_its_queue_through_failure_and_retry_to_its_picture(
    gateway: Gateway, farm: Farm, serve: Serve
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    async with followed(gateway, f"/page/jobs/{job.id}/events") as news:
        assert ">Cancel<" in await section(news, "state", "queued")
        await asyncio.to_thread(serve, Failing([Catalogue.load()["demo"]]))
        found = await section(news, "state", "failed")
        assert "no such luck" in found
        assert f'data-url="/v1/jobs/{job.id}/retry"' in found
        async with gateway.client.post(f"/v1/jobs/{job.id}/retry") as answer:
            assert answer.status == 202
        await section(news, "state", "queued")
        await asyncio.to_thread(serve)
        await section(news, "results", f"/v1/jobs/{job.id}/image/0")


async def test_a_jobs_page_shows_its_newest_preview_until_the_picture_is_there(
    gateway: Gateway, farm: Farm, serve: Serve
) -> None:
    job = farm.submit(LATENTS, vae="demo", preview="taesd")
    await asyncio.to_thread(serve, FakeDecoder([Catalogue.load()["taesd"]]))
    async with followed(gateway, f"/page/jobs/{job.id}/events") as news:
        shown = await section(news, "results", f"/v1/jobs/{job.id}/preview/0?of=")
        assert "/image/0" not in shown
        (address,) = re.findall(r'src="([^"]*/preview/[^"]*)"', shown)
        async with gateway.client.get(address) as answer:
            assert (answer.status, answer.content_type) == (200, "image/jpeg")
        await asyncio.to_thread(serve)
        assert "/preview/" not in await section(news, "results", "/image/0")


async def test_of_a_job_that_is_gone_its_page_says_so(
    gateway: Gateway, farm: Farm, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_page, "ENDED_LOOK_SECONDS", 0.1)
    job = farm.submit(LATENTS, vae="demo")
    async with followed(gateway, f"/page/jobs/{job.id}/events") as news:
        await news.get()
        await asyncio.to_thread(job.cancel)
        assert ">Cancel<" not in await section(news, "state", "canceled")
        connection.delete(f"vaefarm:job:{job.id}", f"vaefarm:tombstone:{job.id}")
        await section(news, "notice", "is not known")


async def test_a_hundred_pages_ask_redis_as_one_does(
    gateway: Gateway, farm: Farm, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "TICK_SECONDS", 0.2)
    looks, looked = 0, board.Board._glance

    async def count(self: board.Board) -> board.Glance:
        nonlocal looks
        looks += 1
        return await looked(self)

    monkeypatch.setattr(board.Board, "_glance", count)

    async def connections() -> int:
        return len(await asyncio.to_thread(connection.client_list))

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(followed(gateway, "/page/events"))
        await first.get()
        before = await connections()
        queues = [await stack.enter_async_context(followed(gateway, "/page/events")) for _ in range(99)]
        for queue in queues:
            await queue.get()
        seen = looks
        farm.submit(LATENTS, vae="demo", job_id="late")
        for queue in queues:
            await section(queue, "vaes", "demo")
        assert looks - seen < len(queues), "one look is for all"
        assert await connections() <= before + 1
    await soon("nobody looks any more", lambda: asyncio.sleep(0, gateway.app[board.BOARD]._looking is None))


async def test_pictures_come_no_faster_than_browsers_may_fetch_them(
    gateway: Gateway, farm: Farm, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is saved up while nothing comes is no more than a strip, of which this one has two.
    monkeypatch.setattr(board, "SHOWN", 2)
    async with followed(gateway, "/page/events") as news:
        await news.get()
        farm.submit_many([LATENTS] * 30, vae="demo")
        await asyncio.to_thread(serve)
        text = await section(news, "pictures", "<li data-key")
    assert text.count("<li data-key") <= 2


async def test_a_thumbnail_is_small_and_made_once(gateway: Gateway, farm: Farm, serve: Serve) -> None:
    farm.submit(np.zeros((1, 4, 64, 128), np.float32), vae="demo", job_id="large")
    await asyncio.to_thread(serve)
    async with gateway.client.get("/page/thumbnails/large/0") as answer:
        assert (answer.status, answer.content_type) == (200, "image/webp")
        picture = Image.open(io.BytesIO(await answer.read()))
        tag = answer.headers["ETag"]
    assert picture.size == (320, 160)
    async with gateway.client.get("/page/thumbnails/large/0", headers={"If-None-Match": tag}) as again:
        assert again.status == 304
    async with gateway.client.get("/page/thumbnails/large/7") as none:
        assert none.status == 404


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_what_is_no_picture_has_no_thumbnail(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        small(data)
