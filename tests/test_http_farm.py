"""What is a farm's over HTTP alone: gateways that are away, answers that are no gateway's, keys, and many waits."""

import asyncio
import gc
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import redis
from aiohttp import web
from PIL import Image
from tests.conftest import Serve, eventually
from tests.served_gateway import ServedGateway

from vaefarm_producer import (
    AsyncFarm,
    ConfigurationError,
    Farm,
    FarmError,
    FarmUnavailable,
    JobConflict,
    QueueFull,
    sending,
)
from vaefarm_producer.encoding import prepare_encode
from vaefarm_producer.gateway.models import TensorOptions
from vaefarm_producer.http_address import read_address
from vaefarm_producer.http_batch import options_of
from vaefarm_producer.http_client import made_error
from vaefarm_producer.http_events import ServerEvent, read_stream
from vaefarm_producer.submission import DecodeOptions, prepare
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import BodyTooLarge, TooManyRequests, Unauthorized
from vaefarm_shared.settings import Settings

LATENTS = np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 4, 8, 8)


@pytest.fixture
def gateway(settings: Settings) -> Iterator[ServedGateway]:
    """A gateway of the test's own, to be stopped and started."""
    served = ServedGateway(settings)
    served.start()
    yield served
    served.stop()


@pytest.fixture
def farm(gateway: ServedGateway, settings: Settings) -> Iterator[Farm]:
    with Farm(settings=settings.at(gateway.url)) as one:
        yield one


def test_a_submit_waits_for_a_gateway_that_is_away_and_its_job_is_one(
    gateway: ServedGateway, farm: Farm, connection: redis.Redis
) -> None:
    prepared = farm.prepare(LATENTS, vae="demo", job_id="a")
    farm.submit_prepared([prepared])
    gateway.stop()

    with ThreadPoolExecutor() as threads:
        again = threads.submit(farm.submit_prepared, [prepared])
        with pytest.raises(FarmUnavailable, match=f"{gateway.url} is not reachable"):
            farm.ping()
        assert not again.done()
        gateway.start()
        assert again.result(timeout=20)[0].id == "a"

    assert connection.llen("rq:queue:vaefarm.demo.normal.s.default") == 1


def test_who_waits_is_told_of_what_ended_while_the_gateway_was_away(
    gateway: ServedGateway, farm: Farm, serve: Serve
) -> None:
    jobs = farm.submit_many([LATENTS, LATENTS + 1], vae="demo")
    futures = [job.ended() for job in jobs]
    eventually("a stream stands", lambda: farm._transport._watcher._stream)  # type: ignore[attr-defined]
    gateway.stop()
    serve()
    assert not any(future.done() for future in futures)

    gateway.start()

    assert [future.result(timeout=20).value for future in futures] == ["finished", "finished"]


def test_more_jobs_than_one_request_takes_are_submitted_awaited_and_canceled(farm: Farm, serve: Serve) -> None:
    jobs = farm.submit_many([LATENTS + n for n in range(1100)], vae="demo")
    futures = [job.ended() for job in jobs]
    assert farm.cancel_many(jobs[:1050]) == ["canceled"] * 1050
    serve()

    assert [future.result(timeout=30).value for future in futures] == ["canceled"] * 1050 + ["finished"] * 50
    assert sum(queue.queued for queue in farm.queues()) == 0


def test_a_request_of_several_mebibytes_is_sent_piece_by_piece(farm: Farm) -> None:
    """aiohttp warns of bytes above 1 MiB in one piece, and warnings are errors here."""
    latents = np.zeros((1, 4, 256, 256), np.float32)
    jobs = farm.submit_many([latents + n for n in range(3)], vae="demo")
    assert [job.status() for job in jobs] == ["queued"] * 3


def test_the_first_conflict_of_many_is_raised_and_the_others_are_queued(farm: Farm) -> None:
    farm.submit(LATENTS, vae="demo", job_id="b")

    with pytest.raises(JobConflict, match="'b' was used for other latents"):
        farm.submit_many([LATENTS, LATENTS + 1, LATENTS + 2], vae="demo", job_ids=["a", "b", "c"])

    assert [farm.job(job_id).status() for job_id in "abc"] == ["queued"] * 3


def test_a_full_farm_says_when_to_come_again_and_block_waits_for_room(
    settings: Settings, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        serve()

    monkeypatch.setattr(sending, "sleep", sleep)
    small = ServedGateway(settings.model_copy(update={"max_queued_jobs": 2}))
    small.start()
    with Farm(settings=settings.at(small.url)) as farm:
        with pytest.raises(QueueFull, match="it holds 2 of at most 2 jobs") as refusal:
            farm.submit_many([LATENTS + n for n in range(5)], vae="demo")
        jobs = farm.submit_many([LATENTS + n for n in range(5)], vae="demo", block=True)
        serve()

        assert {job.status().value for job in jobs} == {"finished"}
        assert waits[0] >= refusal.value.retry_after_seconds > 0
    small.stop()


def test_a_spool_and_put_latent_are_refused_by_name(farm: Farm, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a spool is for farms over Redis"):
        Farm("https://farm.example", spool=tmp_path)
    with pytest.raises(ConfigurationError, match="a spool is for farms over Redis"):
        Farm("https://farm.example", settings=Settings.from_env(spool=str(tmp_path)))
    with pytest.raises(ConfigurationError, match="which need Redis"):
        farm.put_latent(LATENTS, vae="demo")


def test_a_farm_that_nobody_closes_leaves_no_thread(gateway: ServedGateway, settings: Settings) -> None:
    def loops() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "vaefarm-http"}

    before = loops()
    farm = Farm(settings=settings.at(gateway.url))
    future = farm.submit(LATENTS, vae="demo").ended()
    (thread,) = loops() - before

    del farm
    gc.collect()

    thread.join(20)
    assert not thread.is_alive()
    assert future.cancelled()


async def test_waiting_of_the_async_farm_holds_no_thread(
    gateway: ServedGateway, settings: Settings, serve: Serve
) -> None:
    async with AsyncFarm(settings=settings.at(gateway.url)) as farm:
        jobs = await farm.submit_many([LATENTS + n for n in range(100)], vae="demo")
        waits = [asyncio.create_task(job.wait(timeout=60)) for job in jobs]
        # Were each on a thread, this would wait for one of them.
        assert await asyncio.wait_for(farm.queues(), 20)
        await asyncio.to_thread(serve)
        assert set(await asyncio.gather(*waits)) == {"finished"}


@asynccontextmanager
async def answering(handler: Callable[[web.Request], web.StreamResponse]) -> AsyncIterator[str]:
    """The address of a server that answers everything so: a proxy, or someone else's."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        return handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def refused(code: str, status: int) -> web.Response:
    return web.json_response({"error": f"a {code}", "code": code}, status=status, headers={"Retry-After": "7"})


ANSWERS = [
    (lambda _: refused("Unauthorized", 401), Unauthorized, "a Unauthorized"),
    (lambda _: refused("BodyTooLarge", 413), BodyTooLarge, "a BodyTooLarge"),
    (lambda _: refused("TooManyRequests", 429), TooManyRequests, "a TooManyRequests"),
    (lambda _: refused("QueueFull", 503), QueueFull, "a QueueFull"),
    (lambda _: refused("SystemExit", 500), FarmError, "a SystemExit"),
    (lambda _: web.Response(text="<html>bad gateway</html>", status=502), FarmUnavailable, "status 502"),
    (lambda _: web.Response(text="<html>who are you?</html>", status=401), Unauthorized, "status 401"),
    (lambda _: web.Response(text="<html>nothing here</html>", status=404), ConfigurationError, "status 404"),
    (lambda _: web.Response(text="<html>welcome</html>"), FarmUnavailable, "sends no JSON"),
    (
        lambda _: web.Response(status=302, headers={"Location": "https://evil.example/"}),
        ConfigurationError,
        "redirects",
    ),
]


@pytest.mark.parametrize(("handler", "error", "said"), ANSWERS)
async def test_what_a_server_answers_is_an_error_of_ours(
    handler: Callable[[web.Request], web.StreamResponse], error: type[FarmError], said: str
) -> None:
    settings = Settings.from_env(submit_timeout=0.1)
    async with answering(handler) as url, AsyncFarm(settings=settings.at(url)) as farm:
        with pytest.raises(FarmError, match=said) as caught:
            await farm.queues()

    assert type(caught.value) is error
    assert getattr(caught.value, "retry_after_seconds", 7.0) == 7.0


async def test_a_key_that_is_none_ends_every_wait() -> None:
    async with (
        answering(lambda _: refused("Unauthorized", 401)) as url,
        AsyncFarm(settings=Settings.from_env().at(url)) as farm,
    ):
        with pytest.raises(Unauthorized):
            await farm.job("a").wait(timeout=20)


async def test_the_key_goes_into_a_header_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, str | None]] = []

    def note(request: web.Request) -> web.Response:
        seen.append((str(request.url), request.headers.get("Authorization")))
        return web.json_response({"queues": [], "paused": []})

    async with answering(note) as url:
        for farm in (
            AsyncFarm(url.replace("//", "//vaefarm:s3cr3t@"), settings=Settings.from_env()),
            AsyncFarm(url, key="s3cr3t"),
            AsyncFarm(settings=Settings.from_env(url=url, key="s3cr3t")),
        ):
            async with farm:
                await farm.queues()

    assert seen == [(f"{url}/v1/queues", "Bearer s3cr3t")] * 3
    assert "s3cr3t" not in caplog.text


def test_a_key_is_never_in_an_error() -> None:
    url = "https://vaefarm:s3cr3t@127.0.0.1:1"
    with pytest.raises(FarmUnavailable, match=r"https://127.0.0.1:1 is not reachable") as caught:
        Farm(url).ping()
    assert "ssl:default" not in str(caught.value)
    wrong = [
        f"{url}/?x=1",
        "https://vaefarm:s3cr3t@",
        "https://vaefarm:s3cr3t@host:port",
        "https://vaefarm:s3cr3t%0A@h",
    ]
    for text in wrong:
        with pytest.raises(ConfigurationError) as refusal:
            Farm(text)
        assert "s3cr3t" not in str(refusal.value)
    with pytest.raises(ConfigurationError, match="a key is for a gateway"):
        Farm("redis://localhost", key="s3cr3t")

    assert "s3cr3t" not in f"{caught.value} {Settings.from_env().at(url)!r} {read_address(url, None)!r}"


def test_an_address_may_have_a_path_and_its_own_key_gives_way_to_the_one_given() -> None:
    address = read_address("https://vaefarm:a%2Fb@host:8443/farm/", None)
    assert (address.url, address.key) == ("https://host:8443/farm", "a/b")
    assert read_address("https://vaefarm:one@host", "two").key == "two"
    assert read_address("https://host", None).key is None


ASKED: list[DecodeOptions] = [
    {},
    {"image_format": "webp", "lossless": True, "priority": "high", "metadata": {"prompt": "ä cat"}},
    {"reproducible": True, "normalised": False, "deadline_seconds": 3.5, "producer": "me", "result_seconds": 60},
    {"metadata": {"prompt": "a cat"}, "embed_metadata": False},
]


@pytest.mark.parametrize("options", ASKED)
def test_a_gateway_makes_the_same_spec_of_what_it_is_told(options: DecodeOptions) -> None:
    contract = Catalogue.load()["flux"].contract
    assert contract is not None
    packed = np.zeros((1, 16, 64), np.float32)
    spec = prepare(packed, "flux", contract, "a", {"height": 72, "width": 64, **options}).spec

    told = TensorOptions.model_validate({name: value for name, value in options_of(spec).items() if name != "id"})
    again: DecodeOptions = told.model_dump(exclude_none=True, exclude={"vae", "task"})  # type: ignore[assignment]

    made = prepare(packed, "flux", contract, "a", again).spec
    assert made.model_dump(exclude={"request_hash"}) == spec.model_dump(exclude={"request_hash"})


def test_a_gateway_makes_the_same_spec_of_what_it_is_told_of_a_video() -> None:
    contract = Catalogue.load()["ltx-video-0-9-1"].contract
    assert contract is not None
    tokens = np.zeros((1, 2 * 3 * 2, 128), np.float32)
    options: DecodeOptions = {"num_frames": 9, "height": 96, "width": 64, "fps": 25, "video_format": "zip"}
    options |= {"decode_timestep": 0.05, "decode_noise_scale": 0.025, "seed": 2**63}
    spec = prepare(tokens, "ltx-video-0-9-1", contract, "a", options).spec

    told = TensorOptions.model_validate({name: value for name, value in options_of(spec).items() if name != "id"})
    again: DecodeOptions = told.model_dump(exclude_none=True, exclude={"vae", "task"})  # type: ignore[assignment]

    made = prepare(tokens, "ltx-video-0-9-1", contract, "a", again).spec
    assert made.model_dump(exclude={"request_hash"}) == spec.model_dump(exclude={"request_hash"})


def test_what_is_told_of_an_encode_is_what_encodes_take() -> None:
    contract = Catalogue.load()["demo"].contract
    assert contract is not None
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    spec = prepare_encode(file.getvalue(), "demo", contract, "a", {"seed": 7}).spec

    assert options_of(spec) == {"id": "a", "vae": "demo", "task": "encode", "seed": 7}


def test_an_error_of_no_class_of_ours_is_a_farm_error() -> None:
    for code in ("FarmErrors", "ClassVar", "annotations", "", "Exception"):
        assert type(made_error(code, "x")) is FarmError
    assert type(made_error("QueueFull", "x", "soon")) is QueueFull


class Chunks:
    """A body in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def iter_any(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_are_read_however_they_are_cut(size: int) -> None:
    text = b': hello\r\n\r\nid: 1-0\r\nevent: status\r\ndata: {"id":"a"}\r\n\r\n'
    text += b"id: 2-0\nevent:reset\ndata:{}\n\n: ping\n\nid: 3"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    events = [event async for page in read_stream(Chunks(*pieces)) for event in page]  # type: ignore[arg-type]

    assert events == [ServerEvent("status", '{"id":"a"}', "1-0"), ServerEvent("reset", "{}", "2-0")]


async def test_a_stream_without_end_is_no_stream_of_events() -> None:
    with pytest.raises(FarmUnavailable, match="sends no events"):
        async for _ in read_stream(Chunks(*[b"x" * 65536] * 3)):  # type: ignore[arg-type]
            pass
