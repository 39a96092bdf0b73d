"""How `farm.map` sends: beside its source, in order, one round trip at a time."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import redis
from rq.utils import as_text
from tests.conftest import Work, eventually

from vaefarm_producer import Farm, FarmUnavailable, QueueFull
from vaefarm_producer.backpressure import Patience
from vaefarm_producer.flow import PULL_SECONDS
from vaefarm_producer.outgoing import MOST_WAITING
from vaefarm_producer.submission import PreparedJob
from vaefarm_shared.job import JobStatus
from vaefarm_shared.settings import Settings

pytestmark = pytest.mark.redis

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
QUEUE = "rq:queue:vaefarm.demo.normal.s.default"
SECONDS = 30.0


class Gate:
    """In place of a transport's `submit`: waits until it is opened, then does `then`, or what the transport does."""

    def __init__(self, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
        self.then: Callable[[Sequence[PreparedJob]], list[JobStatus]] = farm._transport.submit
        self.opened = threading.Event()
        self.batches: list[int] = []
        self._alone = threading.Lock()
        monkeypatch.setattr(farm._transport, "submit", self.submit)

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        assert self._alone.acquire(blocking=False), "one round trip is under way at a time"
        try:
            self.batches.append(len(jobs))
            assert self.opened.wait(SECONDS)
            return self.then(jobs)
        finally:
            self._alone.release()


@pytest.fixture
def farm(settings: Settings) -> Iterator[Farm]:
    with Farm(settings=settings) as one:
        yield one


@pytest.fixture
def gate(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(farm, monkeypatch)


def slow(count: int) -> Iterator[np.ndarray]:
    """Latents that take longer to make than a map waits for company."""
    for place in range(count):
        time.sleep(PULL_SECONDS)
        yield LATENTS + place


def test_the_source_makes_the_next_while_one_is_acknowledged(farm: Farm, gate: Gate, work: Work) -> None:
    work()

    def source() -> Iterator[np.ndarray]:
        yield from slow(1)
        eventually("the first is being sent", lambda: gate.batches == [1])
        yield from slow(2)
        gate.opened.set()

    places = [result.place for result in farm.map(source(), vae="demo", timeout=SECONDS)]

    assert places == [0, 1, 2]
    assert gate.batches == [1, 2], "what was made meanwhile goes together"


def test_what_waits_to_be_sent_is_bounded(farm: Farm, gate: Gate, work: Work) -> None:
    work()
    pulled: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for place in range(4 * MOST_WAITING):
            pulled.append(place)
            yield LATENTS + place

    places: list[int | None] = []
    mapped = farm.map(source(), vae="demo", window=4 * MOST_WAITING, timeout=SECONDS)
    thread = threading.Thread(target=lambda: places.extend(result.place for result in mapped))
    thread.start()
    eventually("one is being sent, and others wait", lambda: len(pulled) == 1 + MOST_WAITING)
    assert gate.batches == [1]

    gate.opened.set()
    thread.join(SECONDS)
    assert places == list(range(4 * MOST_WAITING))


class Enough(Exception):
    """What a source raises once it has seen what it was to see."""


def test_jobs_are_queued_in_the_order_of_their_latents(farm: Farm, gate: Gate, connection: redis.Redis) -> None:
    gate.opened.set()
    send, sent, queued = gate.then, list[str](), list[str]()

    def noting(jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        sent.extend(job.spec.id for job in jobs)
        return send(jobs)

    def source() -> Iterator[np.ndarray]:
        yield from (LATENTS + place for place in range(100))
        eventually("all are queued", lambda: connection.llen(QUEUE) == 100)
        queued.extend(as_text(one) for one in connection.lrange(QUEUE, 0, -1))
        raise Enough

    gate.then = noting
    with pytest.raises(Enough):
        next(farm.map(source(), vae="demo", window=101))

    assert len(gate.batches) > 1
    assert queued == sent


def test_behind_a_refusal_nothing_is_sent_before_it(
    farm: Farm, gate: Gate, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work()
    gate.opened.set()
    send, taken, refusals = gate.then, list[str](), 0
    monkeypatch.setattr(Patience, "after", lambda *_: 0.05)

    def full_at_first(jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        nonlocal refusals
        if not taken and refusals < 5:
            refusals += 1
            raise QueueFull("the farm is full")
        taken.extend(job.spec.id for job in jobs)
        return send(jobs)

    gate.then = full_at_first
    places = [result.place for result in farm.map(slow(8), vae="demo", timeout=SECONDS)]

    assert refusals == 5
    assert places == list(range(8))


def test_a_full_farm_is_not_read_ahead_of(farm: Farm, gate: Gate, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work()
    gate.opened.set()
    send, pulled, ahead = gate.then, list[int](), list[int]()
    monkeypatch.setattr(Patience, "after", lambda *_: PULL_SECONDS)

    def full_at_first(jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        if len(ahead) < 20:
            ahead.append(len(pulled))
            raise QueueFull("the farm is full")
        return send(jobs)

    def source() -> Iterator[np.ndarray]:
        for place, one in enumerate(slow(5)):
            pulled.append(place)
            yield one

    gate.then = full_at_first
    assert len(list(farm.map(source(), vae="demo", timeout=SECONDS))) == 5
    assert max(ahead) <= 2, "the one that was refused, and one that was being made"


def test_what_was_being_sent_is_canceled_too_when_a_loop_is_left(
    farm: Farm, gate: Gate, connection: redis.Redis
) -> None:
    def source() -> Iterator[np.ndarray]:
        yield from slow(1)
        eventually("the first is being sent", lambda: gate.batches == [1])
        threading.Timer(0.2, gate.opened.set).start()
        raise Enough

    with pytest.raises(Enough):
        next(farm.map(source(), vae="demo"))

    assert not [key for kind in ("latent", "job") for key in connection.scan_iter(f"vaefarm:{kind}:*")]


def test_a_farm_that_stays_away_ends_the_map(farm: Farm, gate: Gate) -> None:
    gate.opened.set()

    def away(_: Sequence[PreparedJob]) -> list[JobStatus]:
        raise FarmUnavailable("Redis is not reachable")

    gate.then = away
    with pytest.raises(FarmUnavailable, match="Redis is not reachable"):
        list(farm.map((LATENTS + place for place in range(5)), vae="demo", timeout=SECONDS))
    assert gate.batches == [1], "what waits behind it is not sent"
