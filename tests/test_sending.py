"""Submits of several round trips: each goes while the next is packed, in order, and nothing behind a refusal."""

import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import redis
from rq.utils import as_text
from tests.conftest import DEADLINE_SECONDS, RedisServer

from vaefarm_producer import Farm, FarmUnavailable, InvalidLatents, sending
from vaefarm_producer.redis_transport import RedisTransport
from vaefarm_producer.sending import batches
from vaefarm_producer.submission import PreparedJob
from vaefarm_shared.job import JobStatus
from vaefarm_shared.settings import Settings

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
QUEUE = "rq:queue:vaefarm.demo.normal.s.default"
IDS = ["a", "b", "c", "d", "e"]


def queued(connection: redis.Redis) -> list[str]:
    return [as_text(job_id) for job_id in connection.lrange(QUEUE, 0, -1)]


@pytest.fixture
def by_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs in a round trip."""
    monkeypatch.setattr(sending, "ROUND_TRIP_JOBS", 2)


class FillingTransport(RedisTransport):
    """Notes what each round trip carries, and finds the farm full after the first."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.trips: list[list[str]] = []

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        self.trips.append([job.spec.id for job in jobs])
        statuses = super().submit(jobs)
        if len(self.trips) == 1:
            self._connection.config_set("maxmemory", "1")
        return statuses


@pytest.mark.usefixtures("by_two")
def test_a_bulk_submit_goes_on_from_where_it_was_refused(
    settings: Settings, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "sleep", lambda _: connection.config_set("maxmemory", "0"))
    with Farm(settings=settings) as farm:
        farm._transport = transport = FillingTransport(settings)

        jobs = farm.submit_many([LATENTS + n for n in range(5)], vae="demo", job_ids=IDS, block=True)
        transport.close()

    assert [job.id for job in jobs] == IDS == queued(connection)
    assert transport.trips == [["a", "b"], ["c", "d"], ["c", "d"], ["e"]]


def test_a_bulk_submit_holds_no_second_copy_of_all_its_latents(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "ROUND_TRIP_BYTES", 64 * 1024)
    many = list(np.zeros((64, 1, 4, 64, 64), np.float16))
    farm.submit_many(many[:1], vae="demo")

    tracemalloc.start()
    farm.submit_many(many, vae="demo")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < sum(one.nbytes for one in many) / 2


def test_round_trips_hold_so_many_bytes_and_jobs_and_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "ROUND_TRIP_BYTES", 10)
    monkeypatch.setattr(sending, "ROUND_TRIP_JOBS", 3)
    jobs = [PreparedJob(n, b"x" * size) for n, size in enumerate([4, 4, 4, 30, 1, 1, 1, 1])]  # type: ignore[arg-type]

    carried: list[tuple[list[object], bool]] = [
        ([job.spec for job in batch], is_last) for batch, is_last in batches(jobs)
    ]
    assert carried == [([0, 1], False), ([2], False), ([3], False), ([4, 5, 6], False), ([7], True)]
    assert list(batches([])) == []


class HeldTransport(RedisTransport):
    """Answers each round trip once it is let to."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.begun: list[list[str]] = []
        self.answered: list[list[str]] = []
        self.threads: set[threading.Thread] = set()
        self.answers = threading.Event()
        self.error: Exception | None = None

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        self.threads.add(threading.current_thread())
        self.begun.append([job.spec.id for job in jobs])
        assert self.answers.wait(DEADLINE_SECONDS)
        if self.error is not None:
            raise self.error
        statuses = super().submit(jobs)
        self.answered.append([job.spec.id for job in jobs])
        return statuses


@pytest.fixture
def held(settings: Settings) -> Iterator[HeldTransport]:
    """The transport of `holding`."""
    transport = HeldTransport(settings)
    yield transport
    transport.close()


@pytest.fixture
def holding(settings: Settings, held: HeldTransport) -> Iterator[Farm]:
    with Farm(settings=settings) as farm:
        farm._transport.close()
        farm._transport = held
        yield farm


@pytest.mark.usefixtures("by_two")
def test_the_next_round_trip_is_packed_by_the_caller_while_one_goes_and_sent_when_that_is_answered(
    holding: Farm, held: HeldTransport, connection: redis.Redis
) -> None:
    packed_by: set[threading.Thread] = set()

    def packed() -> Iterator[PreparedJob]:
        for n, one in enumerate(IDS):
            packed_by.add(threading.current_thread())
            if n == 4:
                # The second round trip is packed, and waits for the first.
                assert (held.begun, held.answered) == ([["a", "b"]], [])
                held.answers.set()
            yield holding.prepare(LATENTS + n, vae="demo", job_id=one)

    jobs = holding.submit_prepared(packed())

    assert [job.id for job in jobs] == IDS == queued(connection)
    assert held.begun == held.answered == [["a", "b"], ["c", "d"], ["e"]]
    assert packed_by == {threading.current_thread()}


def test_one_round_trip_takes_no_thread(holding: Farm, held: HeldTransport) -> None:
    held.answers.set()

    holding.submit_many([LATENTS + n for n in range(5)], vae="demo")

    assert held.threads == {threading.current_thread()}


@pytest.mark.usefixtures("by_two")
def test_behind_a_round_trip_that_failed_nothing_is_sent(holding: Farm, held: HeldTransport) -> None:
    held.error = FarmUnavailable("away")
    held.answers.set()

    with pytest.raises(FarmUnavailable, match="away"):
        holding.submit_many([LATENTS + n for n in range(5)], vae="demo", job_ids=IDS)

    assert held.begun == [["a", "b"]]


@pytest.mark.usefixtures("by_two")
def test_what_packing_raises_is_raised_once_the_round_trip_under_way_is_answered(
    holding: Farm, held: HeldTransport, connection: redis.Redis
) -> None:
    def packed() -> Iterator[PreparedJob]:
        for n in range(3):
            yield holding.prepare(LATENTS + n, vae="demo", job_id=IDS[n])
        threading.Timer(0.1, held.answers.set).start()
        raise InvalidLatents("the fourth")

    with pytest.raises(InvalidLatents, match="the fourth"):
        holding.submit_prepared(packed())

    assert held.answered == [["a", "b"]]
    assert queued(connection) == ["a", "b"]


def test_ctrl_c_waits_for_no_round_trip_under_way(server: RedisServer, connection: redis.Redis) -> None:
    code = (
        "import sys, time, numpy as np; from vaefarm_producer import Farm, sending\n"
        "sending.ROUND_TRIP_JOBS = 1\n"
        "farm = Farm(sys.argv[1])\n"
        "farm.submit(np.zeros((1, 4, 8, 8), np.float32), vae='demo')\n"
        "submit = farm._transport.submit\n"
        "farm._transport.submit = lambda jobs: (print('sends', flush=True), time.sleep(600), submit(jobs))\n"
        "farm.submit_many(list(np.ones((2, 1, 4, 8, 8), np.float32)), vae='demo')\n"
    )
    command = [sys.executable, "-c", code, server.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "sends\n"
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=30)[1].splitlines()[-1] == "KeyboardInterrupt"
    assert len(queued(connection)) == 1
