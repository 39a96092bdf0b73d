"""The farm's pages under attack: keys that change, ids that are used again, readers that leave, gateways that stop."""

import asyncio
import io
import threading
from contextlib import suppress

import aiohttp
import numpy as np
import pytest
import redis
from PIL import Image
from tests.conftest import Serve
from tests.gateway.conftest import Gateway, Keys, StartGateway, raw, soon
from tests.gateway.test_pages import PAGE, followed, section, shown
from yarl import URL

from vaefarm_producer import Farm
from vaefarm_producer.gateway.access import Principal
from vaefarm_producer.gateway.desk import DESK
from vaefarm_producer.gateway.metrics import METRICS
from vaefarm_producer.gateway.page import board, thumbnails
from vaefarm_shared.errors import FarmUnavailable

LATENTS = np.zeros((1, 4, 8, 8), np.float32)
RAW = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float32"}


async def test_a_job_that_has_the_id_of_another_owners_before_is_shown_to_its_own_alone(
    start_gateway: StartGateway, keys: Keys, serve: Serve, connection: redis.Redis
) -> None:
    mine, other = keys.make("mine"), keys.make("other")
    gateway = await start_gateway(keys=keys.path)
    for headers in (mine, other):
        # Nothing is left of what was made before.
        await asyncio.to_thread(connection.delete, "vaefarm:job:shared", "vaefarm:tombstone:shared", "rq:job:shared")
        async with gateway.client.put("/v1/jobs/shared", params=RAW, data=LATENTS.tobytes(), headers=headers) as sent:
            assert sent.status == 202
        await asyncio.to_thread(serve)
    async with gateway.client.get("/v1/jobs/shared", headers=mine) as answer:
        assert answer.status == 404, "it is another's now"
    for headers, is_seen in ((other, True), (mine, False)):
        async with gateway.client.get("/", headers=PAGE | headers) as page:
            assert ("/jobs/shared" in await page.text()) == is_seen


async def test_the_stream_of_a_page_ends_once_its_key_is_no_admins(start_gateway: StartGateway, keys: Keys) -> None:
    boss = keys.make("boss", admin=True)
    keys.make("another", admin=True)
    gateway = await start_gateway(keys=keys.path)
    async with gateway.client.get("/page/events", headers=boss) as answer:
        assert answer.status == 200
        text = keys.path.read_text()
        assert text.count("admin = true") == 2
        keys.path.write_text(text.replace("admin = true", "admin = false", 1))
        async with asyncio.timeout(20):
            with suppress(aiohttp.ClientError):
                while await answer.content.readany():
                    pass
    status, shown_text = await shown(gateway, "/vaes/demo", **boss)
    assert (status, "Pause" in shown_text) == (200, False), "what it sees is what its holder may see now"


async def test_a_page_that_cannot_be_drawn_keeps_no_other_from_being_drawn(
    gateway: Gateway, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "TICK_SECONDS", 0.05)
    of_vae = board.of_vae

    def fails(overview: object, vae: str) -> object:
        raise LookupError(f"nothing is known of {vae}")

    async with followed(gateway, "/page/vaes/demo/events") as broken, followed(gateway, "/page/events") as whole:
        await broken.get()
        monkeypatch.setattr(board, "of_vae", fails)
        farm.submit(LATENTS, vae="demo")
        await section(whole, "vaes", "demo")
        monkeypatch.setattr(board, "of_vae", of_vae)
        await section(broken, "vae", "<dd>1</dd>")


async def test_a_history_that_cannot_be_read_ends_no_look_and_no_gateway_later(
    gateway: Gateway, farm: Farm, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(board, "HISTORY_TICKS", 1)
    connection.set("vaefarm:history", "no stream")
    assert (await shown(gateway, "/"))[0] == 200
    async with followed(gateway, "/page/events") as news:
        farm.submit(LATENTS, vae="demo")
        await section(news, "vaes", "demo")
        async with asyncio.timeout(5):
            await gateway.stop()


async def test_pages_that_open_and_close_at_once_leave_one_look_while_any_is_open(
    gateway: Gateway, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "TICK_SECONDS", 0.01)
    looks = gateway.app[board.BOARD]
    views = [board.View(principal) for principal in (Principal("a", is_admin=True), Principal("b"))]
    rng = np.random.default_rng(7)

    async def look_in(view: board.View, naps: int) -> None:
        async with looks.screen(view) as screen:
            await screen.read(0)
            for _ in range(naps):
                await asyncio.sleep(0)

    def looking() -> list[asyncio.Task[object]]:
        return [one for one in asyncio.all_tasks() if one.get_name() == "vaefarm-board"]

    async with asyncio.timeout(30):
        for _ in range(40):
            tasks = [asyncio.create_task(look_in(views[which], naps)) for which, naps in rng.integers(0, 2, (6, 2))]
            for which in rng.integers(0, 6, 3):
                await asyncio.sleep(0)
                tasks[which].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert len(looking()) <= 1
        assert not looks._screens
        async with looks.screen(views[0]) as screen:
            await screen.read(0)
            farm.submit(LATENTS, vae="demo")
            while "demo" not in screen.sections["vaes"]:
                await screen.read(screen.version)
    assert not looking()


async def test_a_page_that_is_opened_as_the_gateway_stops_is_told_so(gateway: Gateway) -> None:
    gateway.app[DESK].follower.stop()
    with pytest.raises(FarmUnavailable, match="stops"):
        async with gateway.app[board.BOARD].screen(board.View(Principal("a", is_admin=True))):
            pass


async def test_thumbnails_are_made_one_at_a_time_also_for_those_who_leave(
    gateway: Gateway, farm: Farm, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        farm.submit(LATENTS, vae="demo", job_id=f"job-{number}")
    await asyncio.to_thread(serve)
    making, most, count, goes_on = 0, 0, 0, threading.Event()
    make, lock = thumbnails.small, threading.Lock()

    def slowly(data: bytes) -> bytes:
        nonlocal making, most, count
        with lock:
            making, count = making + 1, count + 1
            most = max(most, making)
        goes_on.wait(20)
        with lock:
            making -= 1
        return make(data)

    monkeypatch.setattr(thumbnails, "small", slowly)
    for number in range(2):
        with suppress(TimeoutError):
            async with gateway.client.get(f"/page/thumbnails/job-{number}/0", timeout=aiohttp.ClientTimeout(0.3)):
                pass
    assert count == 1, "who left has left a thread behind that goes on"
    goes_on.set()
    async with gateway.client.get("/page/thumbnails/job-2/0") as answer:
        assert answer.status == 200
    assert most == 1


@pytest.mark.parametrize("port", ["65536", "99999"])
async def test_a_port_that_there_is_not_is_no_name_of_a_gateway(gateway: Gateway, port: str) -> None:
    for request in (b"GET / HTTP/1.1\r\nAccept: text/html", b"POST /login HTTP/1.1\r\nContent-Length: 0"):
        answer = await raw(gateway.url, request + f"\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 ")


def picture(form: str) -> bytes:
    out = io.BytesIO()
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(out, form)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_is_torn_or_garbled_has_a_thumbnail_or_none_and_no_other_error(form: str) -> None:
    whole, rng = picture(form), np.random.default_rng(2)
    for cut in (*range(0, 64), *range(64, len(whole), max(1, len(whole) // 40))):
        with suppress(ValueError):
            thumbnails.small(whole[:cut])
    for _ in range(300):
        torn = bytearray(whole)
        for place in rng.integers(0, min(len(torn), 400), 4):
            torn[place] = rng.integers(0, 256)
        with suppress(ValueError):
            thumbnails.small(bytes(torn))


async def test_a_vae_that_nobody_knows_has_no_stream_that_would_be_drawn(gateway: Gateway) -> None:
    for vae in ("nope", "x" * 99, "..%2F"):
        async with gateway.client.get(f"/page/vaes/{vae}/events") as answer:
            assert (answer.status, answer.content_type) == (422, "application/json")
    assert not gateway.app[board.BOARD]._screens


@pytest.mark.parametrize(("form", "side"), [("PNG", 8193), ("WEBP", 4097)])
def test_a_picture_that_would_take_too_much_memory_has_no_thumbnail(form: str, side: int) -> None:
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, form)
    with pytest.raises(ValueError, match=f"{side} x {side} pixels"):
        thumbnails.small(out.getvalue())


@pytest.mark.parametrize("path", ["/page/events", "/page/vaes/demo/events", "/v1/events"])
async def test_a_reader_that_leaves_before_its_stream_begins_is_no_error_of_the_gateway(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with gateway.client.get("/page/events") as ready:
        assert ready.status == 200
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    for number in range(30):
        _, writer = await asyncio.open_connection("127.0.0.1", URL(gateway.url).port)
        writer.write(request)
        if number % 2:
            writer.transport.abort()
        writer.close()
    await soon("all have left", lambda: asyncio.sleep(0.05, not gateway.app[METRICS].in_flight))
    assert not [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
