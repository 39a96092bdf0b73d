"""Pages of a farm in which somebody wrote what nobody should: they are drawn all the same, and show the rest."""

import asyncio
import json

import numpy as np
import pytest
import redis
from tests.conftest import Serve
from tests.gateway.conftest import Gateway
from tests.gateway.test_pages import followed, section, shown

from vaefarm_producer import Farm
from vaefarm_producer.gateway.page import board

LATENTS = np.zeros((1, 4, 8, 8), np.float32)

#: A command of Redis.
Command = tuple[bytes | str | float, ...]

LISTED: Command = ("SADD", "rq:workers", "rq:worker:odd")
FAILED: Command = ("ZADD", "vaefarm:failures", 1.0, "odd")
FINISHED: Command = ("XADD", "vaefarm:events", "*", "id", "odd", "status", "finished")
RECORD: Command = ("HSET", "vaefarm:job:odd", "status")


def says(text: str | bytes) -> list[Command]:
    """A worker that says this of itself."""
    return [LISTED, ("SET", "vaefarm:worker:odd", text, "EX", 60)]


def describes(**description: object) -> list[Command]:
    """The same of what is JSON."""
    return says(json.dumps({"name": "odd", "vaes": {"demo": "r"}, **description}))


def done(up: float, busy: float, pictures: int) -> dict[str, object]:
    """What a worker says that it has done."""
    return {"up_seconds": up, "busy_seconds": busy, "pictures": pictures}


GARBAGE: dict[str, list[Command]] = {
    "since of the year 33658": describes(since=1e12),
    "since beyond all years": describes(since=1e300),
    "since before all years": describes(since=-1e13),
    "numbers that are none": says('{"vaes": {"demo": "r"}, "since": NaN, "up_seconds": Infinity, "held": -Infinity}'),
    "an endpoint with an endless latency": says(
        '{"vaes": {"demo": "r"}, "endpoints": [{"vae": "demo", "name": "n", "url": "u", "state": "open",'
        ' "latency_p50_seconds": Infinity, "resting_until": Infinity}]}'
    ),
    "counts without end": describes(**done(20.0, 1.0, 10**4000), before=done(10.0, 0.0, 0)),
    "seconds without end": describes(**done(1e308, 1e308, 1), before=done(-1e308, -1e308, 0)),
    "a number that Python does not read": says(f'{{"pictures": {"9" * 5000}}}'),
    "no JSON": says("{"),
    "no UTF-8": says(b'{"vaes": {"\xff": "r"}}'),
    "a list": says("[]"),
    "null": says("null"),
    "JSON that is deep": says("[" * 100_000),
    "half of a character": says('{"name": "\\ud800", "vaes": {"\\ud800": "r"}, "host": "\\ud800", "more": "\\ud800"}'),
    "VAEs that are a list": describes(vaes=["demo"], sizes=[], hot={"demo": 1}, endpoints={}),
    "sizes that are numbers": describes(sizes={"demo": 7}, unavailable=[1], away="all"),
    "VAEs of odd names": describes(vaes={"": "r", "\x00\u202e": "r", "a/../../b?c#d": "r"}, hot=["\x00\u202e"]),
    "a description that is no string": [LISTED, ("HSET", "vaefarm:worker:odd", "a", "b")],
    "a worker's name that is no UTF-8": [
        ("SADD", "rq:workers", b"rq:worker:\xff"),
        ("SET", b"vaefarm:worker:\xff", "{}", "EX", 60),
    ],
    "a worker's name of odd characters": [
        ("SADD", "rq:workers", "rq:worker:\x00\n\u202e<b>"),
        ("SET", "vaefarm:worker:\x00\n\u202e<b>", "{}", "EX", 60),
    ],
    "a failure at the end of time": [(*RECORD, "failed", "ended_at", "1e300"), FAILED],
    "a failure before all time": [(*RECORD, "failed", "ended_at", "-1e300"), FAILED],
    "a failure of a queue that is no UTF-8": [(*RECORD, "failed", "queue", b"vaefarm.\xff.x"), FAILED],
    "a failure of an id that is no UTF-8": [
        ("HSET", b"vaefarm:job:\xff", "status", "failed"),
        ("ZADD", "vaefarm:failures", 1.0, b"\xff"),
    ],
    "a failed job that is no hash": [("SET", "vaefarm:job:flat", "x"), ("ZADD", "vaefarm:failures", 1.0, "flat")],
    "a death at the end of time": [("ZADD", "vaefarm:deaths", "inf", "odd")],
    "a death of no UTF-8 in the far future": [("ZADD", "vaefarm:deaths", 1e300, b"\xff")],
    "a quarantine at the end of time": [("HSET", "vaefarm:quarantine", "odd", '{"reason": "r", "since": 1e300}')],
    "a quarantine without a time": [("HSET", "vaefarm:quarantine", "odd", '{"reason": "r", "since": Infinity}')],
    "a quarantine that is no JSON": [("HSET", "vaefarm:quarantine", b"\xff", b"\xff")],
    "a quarantine of half a character": [("HSET", "vaefarm:quarantine", "odd", '{"reason": "\\ud800", "since": 1}')],
    "a queue that is no UTF-8": [("SADD", "rq:queues", b"rq:queue:vaefarm.\xff")],
    "a queue that is no list": [
        ("SADD", "rq:queues", "rq:queue:vaefarm.odd"),
        ("SET", "rq:queue:vaefarm.odd", "x"),
    ],
    "queues of odd parts": [
        ("SADD", "rq:queues", "rq:queue:vaefarm.", "rq:queue:vaefarm.a.b.c.d.e"),
        ("RPUSH", "rq:queue:vaefarm.", "x"),
    ],
    "a pause of no UTF-8": [("SADD", "vaefarm:paused", b"\xff")],
    "a pace that is none": [("HSET", "vaefarm:pace", "demo:s", "x", b"\xff", "1")],
    "an endless pace": [
        ("HSET", "vaefarm:pace", "demo:s", "inf"),
        ("SADD", "rq:queues", "rq:queue:vaefarm.demo"),
        ("RPUSH", "rq:queue:vaefarm.demo", "x"),
    ],
    "counters that are none": [("HSET", "vaefarm:ended", "demo:failed", "x", b"\xff", "1e300")],
    "a history that is none": [
        ("XADD", "vaefarm:history", "*", b"\xff", b"\xff", "finished", "1e308", "backlog_seconds", "inf")
    ],
    "a history after all years": [("XADD", "vaefarm:history", f"{2**64 - 1}-0", "finished", "1", "busy_share", "nan")],
    "an event that is none": [("XADD", "vaefarm:events", "*", "odd", b"\xff")],
    "an event of another release": [("XADD", "vaefarm:events", "*", "id", "odd", "status", "thought of")],
    "an event of no UTF-8": [("XADD", "vaefarm:events", "*", "id", b"\xff", "status", b"\xff", "owner", b"\xff")],
    "a finished job without a report": [(*RECORD, "finished"), FINISHED],
    "a finished job with half a report": [(*RECORD, "finished", "report", '{"vae":', "queued_at", "1e300"), FINISHED],
    "a finished job whose fields are no UTF-8": [(*RECORD, "finished", b"\xff", b"\xff"), FINISHED],
    "a tombstone that is none": [("SET", "vaefarm:tombstone:odd", "x"), FINISHED],
}


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "TICK_SECONDS", 0.05)


async def shows_the_rest(gateway: Gateway) -> None:
    """Check that the farm's page, and a VAE's, are whole and told as text, and that the API answers."""
    for path in ("/", "/vaes/demo"):
        status, text = await shown(gateway, path)
        assert status == 200, path
        assert "cannot be drawn" not in text, "each section is"
        assert "\x00" not in text
        assert "/jobs/well" in text
    async with gateway.client.get("/v1/overview") as answer:
        assert answer.status == 200
        await answer.json()


async def goes_on(gateway: Gateway, farm: Farm, serve: Serve) -> None:
    """Check that a page that is open shows what is made from now on."""
    async with followed(gateway, "/page/events") as news:
        await section(news, "pictures", "/jobs/well")
        farm.submit(LATENTS, vae="demo", job_id="another")
        await asyncio.to_thread(serve)
        await section(news, "pictures", "/jobs/another")


@pytest.fixture
async def at_work(farm: Farm, serve: Serve) -> None:
    """A farm that has made a picture."""
    farm.submit(LATENTS, vae="demo", job_id="well")
    await asyncio.to_thread(serve)


@pytest.mark.usefixtures("at_work")
async def test_all_that_somebody_may_garble_takes_no_page_away(
    gateway: Gateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    for commands in GARBAGE.values():
        for command in commands:
            # Some are of kinds that another's key has already.
            try:
                connection.execute_command(*command)
            except redis.ResponseError:
                continue
    await shows_the_rest(gateway)
    await goes_on(gateway, farm, serve)


@pytest.mark.slow
@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize("written", GARBAGE)
async def test_what_somebody_garbled_takes_no_page_away(
    gateway: Gateway, farm: Farm, serve: Serve, connection: redis.Redis, written: str
) -> None:
    for command in GARBAGE[written]:
        connection.execute_command(*command)
    await shows_the_rest(gateway)
    await goes_on(gateway, farm, serve)
