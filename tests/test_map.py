"""`farm.map`: latents without end through a window, over each transport, with a worker that runs meanwhile."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from rq.utils import as_text
from tests.conftest import RedisServer, Serve, Work, eventually, redis_servers
from tests.counting_decoder import CountingDecoder
from tests.served_gateway import ServedGateway

from vaefarm_producer import (
    AsyncFarm,
    Farm,
    FarmError,
    InvalidLatents,
    InvalidOption,
    JobCanceled,
    JobFailed,
    QueueFull,
    Result,
    UnknownVae,
    WaitTimeout,
)
from vaefarm_producer.backpressure import Patience
from vaefarm_shared.errors import RetryLater
from vaefarm_shared.settings import Settings
from vaefarm_worker.worker import Worker

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
TOLD = {"prompt": "a cat"}
QUEUE = "rq:queue:vaefarm.demo.normal.s.default"


@pytest.fixture
def farm(farm_settings: Settings) -> Iterator[Farm]:
    """A farm over Redis, and over a gateway."""
    with Farm(settings=farm_settings) as one:
        yield one


def many(count: int) -> list[np.ndarray]:
    return [LATENTS + n for n in range(count)]


def left(connection: redis.Redis) -> list[bytes]:
    """What jobs that were not discarded keep."""
    kinds = ("latent", "image", "job", "spec")
    return [key for kind in kinds for key in connection.scan_iter(f"vaefarm:{kind}:*")]


def told(connection: redis.Redis, key: bytes) -> bytes:
    """What a key holds."""
    read: dict[str, Callable[[bytes], object]] = {
        "string": connection.get,
        "hash": connection.hgetall,
        "set": connection.smembers,
        "list": lambda name: connection.lrange(name, 0, -1),
        "zset": lambda name: connection.zrange(name, 0, -1),
        "stream": connection.xrange,
        # It ended in between.
        "none": connection.get,
    }
    return repr(read[as_text(connection.type(key))](key)).encode()


@pytest.mark.redis
def test_results_come_in_the_order_of_their_latents_and_nothing_of_them_stays(
    farm: Farm, connection: redis.Redis, work: Work
) -> None:
    decoder = work()
    expected = [job.result(timeout=20).data for job in farm.submit_many(many(30), vae="demo", metadata=TOLD)]
    connection.flushall()

    results = list(farm.map((one for one in many(30)), vae="demo", window=8, metadata=TOLD))

    assert [result.data for result in results] == expected
    assert len(set(expected)) == 30
    assert [result.place for result in results] == list(range(30))
    assert {result.record.metadata["prompt"] for result in results} == {TOLD["prompt"]}
    assert len(decoder.decoded) == 60
    eventually("every job is discarded", lambda: not left(connection))


def test_of_what_was_given_nothing_names_the_job_for_longer_than_a_minute_but_the_events(
    farm: Farm, connection: redis.Redis, work: Work
) -> None:
    work()

    ids = {result.record.id.encode() for result in farm.map(many(20), vae="demo", window=8)}

    eventually("every job is discarded", lambda: not left(connection))
    tombstones = {f"vaefarm:tombstone:{job_id.decode()}".encode() for job_id in ids}
    for key in connection.scan_iter():
        if key in tombstones:
            assert connection.ttl(key) <= 60
        elif key != b"vaefarm:events":
            assert not any(job_id in key + told(connection, key) for job_id in ids), key
    assert len(ids) == 20


@pytest.mark.parametrize("ordered", [True, False])
def test_no_more_than_the_window_is_under_way_and_nothing_is_read_ahead_of_it(
    farm: Farm, connection: redis.Redis, work: Work, ordered: bool
) -> None:
    pulled: list[int] = []
    given: list[int] = []
    most = [0]

    def source() -> Iterator[np.ndarray]:
        for n in range(100):
            pulled.append(n)
            assert len(pulled) - len(given) <= 5
            yield LATENTS + n

    def take() -> None:
        for result in farm.map(source(), vae="demo", window=5, ordered=ordered):
            given.append(result.place or 0)
            most[0] = max(most[0], connection.zcard("vaefarm:leases") + connection.llen(QUEUE))

    thread = threading.Thread(target=take)
    thread.start()
    eventually("the window is full", lambda: connection.llen(QUEUE) == 5)
    assert (len(pulled), given) == (5, []), "while nobody decodes, nothing more is read"
    decoder = work()
    thread.join(60)

    assert sorted(given) == list(range(100))
    assert len(decoder.decoded) == 100
    assert 1 <= most[0] <= 5


def test_unordered_results_come_as_they_end(farm: Farm, connection: redis.Redis) -> None:
    def cancel_the_third() -> None:
        eventually("all are queued", lambda: connection.llen(QUEUE) == 4)
        farm.job(as_text(connection.lindex(QUEUE, 2) or "")).cancel()

    thread = threading.Thread(target=cancel_the_third)
    thread.start()
    first = next(iter(farm.map(many(4), vae="demo", ordered=False, on_error="return", timeout=30)))
    thread.join()

    assert isinstance(first, JobCanceled)
    assert first.place == 2


def broken(count: int, place: int, value: float) -> list[np.ndarray]:
    """Latents of which one begins with a value."""
    held = many(count)
    held[place].flat[0] = value
    return held


@pytest.mark.parametrize(("value", "kind"), [(7.0, JobFailed), (np.nan, InvalidLatents)])
def test_what_is_wrong_with_one_is_raised_at_its_place_and_the_rest_is_canceled(
    farm: Farm, connection: redis.Redis, work: Work, value: float, kind: type[FarmError]
) -> None:
    work()
    given: list[Result] = []

    with pytest.raises(kind, match="^latents 11: ") as raised:
        # What was given before stays.
        given.extend(farm.map(broken(30, 11, value), vae="demo", window=8))

    assert raised.value.place == 11
    assert [result.place for result in given] == list(range(11))
    eventually("nothing is left", lambda: not left(connection))


@pytest.mark.parametrize(("value", "kind"), [(7.0, JobFailed), (np.nan, InvalidLatents)])
def test_what_is_wrong_with_one_is_returned_at_its_place_and_the_rest_comes(
    farm: Farm, connection: redis.Redis, work: Work, value: float, kind: type[FarmError]
) -> None:
    work()

    found = list(farm.map(broken(30, 11, value), vae="demo", window=8, on_error="return"))

    assert [one.place for one in found] == list(range(30))
    assert [one.place for one in found if not isinstance(one, Result)] == [11]
    assert isinstance(found[11], kind)
    eventually("nothing is left", lambda: not left(connection))


def test_a_loop_that_is_left_cancels_what_is_under_way(farm: Farm, connection: redis.Redis, work: Work) -> None:
    decoder = work()
    pulled: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for n in range(1000):
            pulled.append(n)
            yield LATENTS + n

    for result in farm.map(source(), vae="demo", window=8):
        if result.place == 20:
            break

    assert len(pulled) <= 20 + 8
    assert len(decoder.decoded) <= 20 + 8
    eventually("nothing is left", lambda: not left(connection))
    assert connection.llen(QUEUE) == 0


def test_what_the_source_raises_comes_out_and_cancels_what_is_under_way(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    def source() -> Iterator[np.ndarray]:
        yield from many(3)
        raise ZeroDivisionError("the generator is out of order")

    with pytest.raises(ZeroDivisionError):
        list(farm.map(awaiting(source(), lambda: connection.llen(QUEUE)), vae="demo"))

    assert not left(connection)
    decoder = CountingDecoder()
    serve(decoder)
    assert decoder.decoded == []


def awaiting(source: Iterator[np.ndarray], queued: Callable[[], int]) -> Iterator[np.ndarray]:
    """Latents, each of which is queued before the next is made."""
    for place, one in enumerate(source, 1):
        yield one
        eventually(f"{place} are queued while the next is made", lambda now=place: queued() == now)  # type: ignore[misc]


@pytest.mark.parametrize("is_http", [False, True], ids=["redis", "http"])
def test_a_farm_that_is_full_of_its_own_results_is_waited_for_by_handing_them_over(
    settings: Settings, work: Work, monkeypatch: pytest.MonkeyPatch, is_http: bool
) -> None:
    work()
    waits: list[RetryLater] = []

    def after(_: Patience, refusal: RetryLater) -> float:
        waits.append(refusal)
        return 0.05

    monkeypatch.setattr(Patience, "after", after)
    # Room for three pictures, made or to come.
    small = settings.model_copy(update={"budget_bytes": 60_000})

    with ExitStack() as stack:
        if is_http:
            gateway = ServedGateway(small)
            gateway.start()
            stack.callback(gateway.stop)
            small = small.at(gateway.url)
        farm = stack.enter_context(Farm(settings=small))
        results = list(farm.map(many(9), vae="demo", window=9, timeout=60))

    assert [result.place for result in results] == list(range(9))
    assert waits
    assert {type(refusal) for refusal in waits} == {QueueFull}


@pytest.mark.slow
def test_a_redis_that_is_away_for_a_moment_costs_no_result(settings: Settings, tmp_path: Path) -> None:
    binary = next(iter(redis_servers().values()))
    server = RedisServer(binary, tmp_path, ("--appendonly", "yes", "--appendfsync", "always"))
    server.start()
    own = settings.at(server.url)
    worker = Worker(own, CountingDecoder(), "here")
    thread = threading.Thread(target=worker.run)
    thread.start()
    back = threading.Timer(1.0, server.start)
    try:
        places = []
        with Farm(settings=own) as farm:
            for result in farm.map(many(20), vae="demo", window=6):
                places.append(result.place)
                if result.place == 7:
                    server.stop()
                    back.start()
    finally:
        back.join()
        worker.stop()
        thread.join(40)
        server.stop()

    assert places == list(range(20))


BAD: list[tuple[dict[str, Any], type[FarmError], str]] = [
    ({"vae": "sd4"}, UnknownVae, "expected one of auraflow"),
    ({"vae": "demo", "window": 0}, InvalidOption, "window=0; expected"),
    ({"vae": "demo", "window": True}, InvalidOption, "window=True; expected"),
    ({"vae": "demo", "on_error": "ignore"}, InvalidOption, "on_error='ignore'; expected 'raise' or 'return'"),
    ({"vae": "demo", "prioriti": "high"}, InvalidOption, "option 'prioriti' is not known"),
]


@pytest.mark.parametrize(("arguments", "kind", "said"), BAD, ids=lambda value: None)
def test_bad_arguments_are_refused_before_anything_is_read(
    farm: Farm, arguments: dict[str, Any], kind: type[FarmError], said: str
) -> None:
    def source() -> Iterator[np.ndarray]:
        pytest.fail("it was read")
        yield LATENTS

    with pytest.raises(kind, match=said):
        farm.map(source(), **arguments)


def test_a_timeout_is_for_all_and_cancels(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    with pytest.raises(WaitTimeout, match="3 jobs have not ended within 0.3 seconds"):
        list(farm.map(many(3), vae="demo", timeout=0.3))

    assert not left(connection)
    decoder = CountingDecoder()
    serve(decoder)
    assert decoder.decoded == []


def threads() -> int:
    return sum(thread.name.startswith("vaefarm-map") for thread in threading.enumerate())


async def test_the_async_farm_maps_what_is_made_synchronously_or_not(
    farm_settings: Settings, connection: redis.Redis, work: Work
) -> None:
    work()
    pulled: list[int] = []

    async def source() -> AsyncIterator[np.ndarray]:
        for n in range(12):
            pulled.append(n)
            await asyncio.sleep(0)
            yield LATENTS + n

    async with AsyncFarm(settings=farm_settings) as farm:
        here = [result async for result in farm.map(many(12), vae="demo", window=4)]
        there = [result async for result in farm.map(source(), vae="demo", window=4, ordered=False)]
        found = [one async for one in farm.map(broken(5, 3, 7.0), vae="demo", on_error="return")]

    assert [result.place for result in here] == list(range(12))
    assert {result.place: result.data for result in there} == {result.place: result.data for result in here}
    assert [isinstance(one, JobFailed) for one in found] == [False, False, False, True, False]
    await asyncio.to_thread(eventually, "nothing is left", lambda: not left(connection))


async def test_an_async_map_that_is_left_or_cancelled_cancels_what_is_under_way_and_leaves_no_thread(
    farm_settings: Settings, connection: redis.Redis
) -> None:
    async def source(stuck: asyncio.Event) -> AsyncIterator[np.ndarray]:
        for n in range(3):
            yield LATENTS + n
        stuck.set()
        await asyncio.Event().wait()

    async def take(farm: AsyncFarm, window: int, stuck: asyncio.Event) -> None:
        async with contextlib.aclosing(farm.map(source(stuck), vae="demo", window=window)) as results:
            async for _ in results:
                pass

    async with AsyncFarm(settings=farm_settings) as farm:
        for window in (2, 128):
            stuck = asyncio.Event()
            task = asyncio.create_task(take(farm, window, stuck))
            if window == 2:
                # It waits for a result, and below for latents.
                await asyncio.to_thread(eventually, "they are queued", lambda: connection.llen(QUEUE) == 2)
            else:
                await stuck.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            connection.delete(QUEUE)
            await asyncio.to_thread(eventually, "nothing is left", lambda: not left(connection))
            await asyncio.to_thread(eventually, "its thread has ended", lambda: threads() == 0)
