"""How `farm.map` sends: beside its source, in order, one round trip at a time."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import redis
from rq.utils import as_text
from tests.conftest import RedisServer, Work, eventually

from vaefarm_producer import Farm, FarmUnavailable, QueueFull, WaitTimeout
from vaefarm_producer.backpressure import Patience
from vaefarm_producer.flow import PULL_SECONDS
from vaefarm_producer.outgoing import MOST_WAITING
from vaefarm_producer.submission import PreparedJob
from vaefarm_shared.job import JobStatus
from vaefarm_shared.latents import unpack
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
        self.answered: list[int] = []
        self._alone = threading.Lock()
        monkeypatch.setattr(farm._transport, "submit", self.submit)

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        assert self._alone.acquire(blocking=False), "one round trip is under way at a time"
        try:
            self.batches.append(len(jobs))
            assert self.opened.wait(SECONDS)
            return self.then(jobs)
        finally:
            self.answered.append(len(jobs))
            self._alone.release()


@pytest.fixture
def farm(settings: Settings) -> Iterator[Farm]:
    with Farm(settings=settings) as one:
        yield one


@pytest.fixture
def gate(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(farm, monkeypatch)


def place_of(job: PreparedJob) -> int:
    """The place of a job's latents, of which each has its own value."""
    return round(float(unpack(job.packed).numpy().flat[0] - LATENTS.flat[0]))


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
    send, places, queued = gate.then, dict[str, int](), list[int]()

    def noting(jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        places.update((job.spec.id, place_of(job)) for job in jobs)
        return send(jobs)

    def source() -> Iterator[np.ndarray]:
        yield from (LATENTS + place for place in range(100))
        eventually("all are queued", lambda: connection.llen(QUEUE) == 100)
        queued.extend(places[as_text(one)] for one in connection.lrange(QUEUE, 0, -1))
        raise Enough

    gate.then = noting
    with pytest.raises(Enough):
        next(farm.map(source(), vae="demo", window=101))

    assert len(gate.batches) > 1
    assert queued == list(range(100))


def test_behind_a_refusal_nothing_is_sent_before_it(
    farm: Farm, gate: Gate, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work()
    gate.opened.set()
    send, taken, refusals = gate.then, list[int](), 0
    monkeypatch.setattr(Patience, "after", lambda *_: 0.05)

    def full_at_first(jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        nonlocal refusals
        if not taken and refusals < 5:
            refusals += 1
            raise QueueFull("the farm is full")
        taken.extend(place_of(job) for job in jobs)
        return send(jobs)

    gate.then = full_at_first
    places = [result.place for result in farm.map((LATENTS + n for n in range(40)), vae="demo", timeout=SECONDS)]

    assert refusals == 5
    assert places == taken == list(range(40))


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

    eventually("what was being sent was answered", lambda: gate.answered == [1])
    assert not [key for kind in ("latent", "job") for key in connection.scan_iter(f"vaefarm:{kind}:*")]


def test_a_farm_that_stays_away_ends_the_map(farm: Farm, gate: Gate) -> None:
    gate.opened.set()

    def away(_: Sequence[PreparedJob]) -> list[JobStatus]:
        raise FarmUnavailable("Redis is not reachable")

    def source() -> Iterator[np.ndarray]:
        yield LATENTS
        eventually("the first was not taken", lambda: gate.answered == [1])
        yield from (LATENTS + place for place in range(1, 5))

    gate.then = away
    with pytest.raises(FarmUnavailable, match="Redis is not reachable"):
        list(farm.map(source(), vae="demo", timeout=SECONDS))
    assert gate.batches == [1], "what waits behind it is not sent"


def test_what_was_taken_behind_a_refusal_leaves_it_room(
    settings: Settings, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work()
    monkeypatch.setattr(Patience, "after", lambda *_: 0.05)
    large = np.tile(LATENTS, (1, 1, 3, 1)) + 1
    # Room for three small pictures, or for a large one beside a small one that is made, but not beside two.
    with Farm(settings=settings.model_copy(update={"budget_bytes": 62_000})) as farm:
        gate = Gate(farm, monkeypatch)
        kept = RefusalsKept(gate.then)
        gate.then = kept.submit

        def source() -> Iterator[np.ndarray]:
            yield from (LATENTS, large, *(LATENTS + place for place in range(2, 6)))
            gate.opened.set()

        places = [result.place for result in farm.map(source(), vae="demo", timeout=SECONDS)]

    assert places == list(range(6))
    assert gate.batches[:2] == [1, 5]
    assert kept.refusals[0] == 5, "the large one was refused beside smaller ones"


class RefusalsKept:
    """A `submit` that notes of how many jobs one was refused."""

    def __init__(self, send: Callable[[Sequence[PreparedJob]], list[JobStatus]]) -> None:
        self._send = send
        self.refusals: list[int] = []

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        try:
            return self._send(jobs)
        except QueueFull:
            self.refusals.append(len(jobs))
            raise


PROGRAM = """
import sys, threading, numpy as np
from vaefarm_producer import Farm
from vaefarm_shared.settings import Settings

def made():
    yield np.zeros((3,), np.float32)
    yield from (np.full((1, 4, 8, 8), n, np.float32) for n in range(10))

def main(how):
    farm = Farm(settings=Settings(redis_url=sys.argv[1], max_queued_jobs=3))
    results = farm.map(made(), vae="demo", on_error="return")
    next(results)
    while len(list(farm.queued("demo"))) < 3:
        pass
    if how == "raises":
        raise ZeroDivisionError
    threading.Thread(target=lambda: next(results), daemon=True).start()

main(sys.argv[2])
"""


@pytest.mark.parametrize("how", ["ends", "raises"])
def test_a_program_ends_though_its_map_waits_for_a_full_farm(server: RedisServer, how: str) -> None:
    command = [sys.executable, "-c", PROGRAM, server.url, how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    errors = process.communicate(timeout=SECONDS)[1]

    assert ("ZeroDivisionError" in errors) == (how == "raises")
    assert "Exception ignored" not in errors


LEFT = """
import sys, numpy as np
from vaefarm_producer import Farm

def made():
    yield np.zeros((3,), np.float32)
    yield from (np.full((1, 4, 8, 8), n, np.float32) for n in range(10))

farm = Farm(sys.argv[1], key=sys.argv[2] or None)
results = farm.map(made(), vae="demo", on_error="return")
next(results)
sys.stdin.readline()
"""


FORKS = """
import os
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
print("the child has ended", flush=True)
sys.stdin.readline()
"""


def test_a_program_that_ends_with_a_map_under_way_cancels_it(
    farm_settings: Settings, farm_url: str, connection: redis.Redis
) -> None:
    key = "" if farm_settings.key is None else farm_settings.key.get_secret_value()
    command = [sys.executable, "-c", LEFT, farm_url, key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        eventually("all are queued", lambda: connection.llen(QUEUE) == 10)
        errors = process.communicate("\n", timeout=SECONDS)[1]

    assert "Exception ignored" not in errors
    assert not [key for kind in ("latent", "job") for key in connection.scan_iter(f"vaefarm:{kind}:*")]


def test_a_forked_process_that_ends_leaves_its_parents_map_alone(server: RedisServer, connection: redis.Redis) -> None:
    command = [sys.executable, "-c", LEFT + FORKS, server.url, ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        eventually("all are queued", lambda: connection.llen(QUEUE) == 10)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout is not None
        assert process.stdout.readline() == "the child has ended\n"
        assert len(list(connection.scan_iter("vaefarm:job:*"))) == 10
        process.communicate("\n", timeout=SECONDS)


def test_the_time_of_a_map_is_over_though_its_source_goes_on(farm: Farm) -> None:
    with pytest.raises(WaitTimeout, match="have not ended within 0.5 seconds"):
        list(farm.map(slow(1000), vae="demo", timeout=0.5, window=1000))


def test_what_an_earlier_run_had_decoded_is_not_taken_back(
    settings: Settings, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = work()
    monkeypatch.setattr(Patience, "after", lambda *_: 0.05)
    large = np.tile(LATENTS, (1, 1, 3, 1)) + 1
    with Farm(settings=settings.model_copy(update={"budget_bytes": 70_000})) as farm:
        farm.submit(LATENTS, vae="demo", job_id="earlier").result(SECONDS)
        gate = Gate(farm, monkeypatch)

        def source() -> Iterator[tuple[str, np.ndarray]]:
            yield "first", LATENTS + 1
            eventually("the first is being sent", lambda: gate.batches == [1])
            yield from [("large", large), ("earlier", LATENTS)]
            gate.opened.set()

        flow = farm.flow(
            source(),
            lambda item: farm.prepare(item[1], vae="demo", job_id=item[0]),
            lambda _, job: job.discard(),
            is_owner=False,
            ordered=False,
            timeout=SECONDS,
        )
        assert {outcome.item[0] for outcome in flow.outcomes()} == {"first", "earlier", "large"}

    assert decoder.decoded.count("earlier") == 1
    assert gate.batches[:2] == [1, 2]
