"""Which endpoint is asked next, by policy alone: a clock of numbers, no network."""

import heapq
import random
from dataclasses import replace

import pytest
from tests.worker.remote.test_health import Clock

from vaefarm_worker.remote.choosing import Candidate, choose
from vaefarm_worker.remote.health import Health
from vaefarm_worker.remote.pacing import Pacing


def candidate(endpoint: str, latency: float | None = 0.1, in_flight: int = 0, rate: float = 1.0) -> Candidate[str]:
    return Candidate(endpoint, True, in_flight, 8, latency, rate)


def test_the_endpoint_that_waits_least_is_chosen() -> None:
    assert choose([candidate("slow", 0.3), candidate("fast", 0.1)]) == "fast"
    assert choose([candidate("slow", 0.3), candidate("fast", 0.1, in_flight=3)]) == "slow"
    assert choose([candidate("idle"), candidate("busy", in_flight=1)]) == "idle"
    assert choose([candidate("fails", rate=0.4), candidate("works", 0.2)]) == "works"


def test_one_that_has_no_slot_or_may_not_be_asked_is_never_chosen() -> None:
    full = replace(candidate("full", 0.001), in_flight=8)
    resting = replace(candidate("resting", 0.001), can_be_asked=False)

    assert choose([full, resting, candidate("slow", 9.0)]) == "slow"
    assert choose([full, resting]) is None
    assert choose([]) is None


def test_an_endpoint_that_nobody_has_asked_is_tried() -> None:
    assert choose([candidate("known", 0.1, in_flight=1), candidate("new", None)]) == "new"
    assert choose([candidate("known", 0.1), candidate("new", None, in_flight=1)]) == "known"


def test_an_endpoint_that_failed_is_chosen_only_where_no_other_is_free() -> None:
    failed, other = candidate("failed", 0.1), candidate("other", 5.0)

    assert choose([failed, other], avoided=["failed"]) == "other"
    assert choose([failed, replace(other, in_flight=8)], avoided=["failed"]) == "failed"
    assert choose([failed, other], avoided=["failed", "other"]) == "failed"


class Server:
    """An endpoint that decodes one picture at a time, and fails some requests at once."""

    def __init__(self, clock: Clock, seconds: float, failing: float = 0.0) -> None:
        self.health = Health(Pacing(failures_to_open=10**9), clock=clock)
        self.seconds, self.failing = seconds, failing
        self.free_at = 0.0
        self.began = self.succeeded = 0

    @property
    def candidate(self) -> "Candidate[Server]":
        health = self.health
        return Candidate(self, True, health.in_flight, 8, health.faded_seconds, health.success_rate)


def work_through(servers: list[Server], clock: Clock, jobs: int, at_a_time: int) -> None:
    """Keep so many jobs out until all were asked for, those that fail once more, by a clock of their own."""
    chance = random.Random(0)
    out: list[tuple[float, int, float, bool, Server]] = []
    for number in range(jobs):
        if len(out) == at_a_time:
            clock.now, _, began, fails, server = heapq.heappop(out)
            server.health.in_flight -= 1
            if fails:
                server.health.failed(RuntimeError("no"))
            else:
                server.health.succeeded(clock.now - began)
                server.succeeded += 1
        server = choose([one.candidate for one in servers]) or servers[0]
        fails = chance.random() < server.failing
        server.free_at = max(server.free_at, clock.now) + (0.01 if fails else server.seconds)
        server.health.in_flight += 1
        server.began += 1
        heapq.heappush(out, (server.free_at, number, clock.now, fails, server))


def test_an_endpoint_three_times_as_fast_gets_about_three_times_the_work() -> None:
    clock = Clock()
    fast, slow = Server(clock, 0.1), Server(clock, 0.3)
    work_through([fast, slow], clock, jobs=2000, at_a_time=8)

    assert fast.succeeded / slow.succeeded == pytest.approx(3.0, rel=0.2)


def test_an_endpoint_that_fails_gets_little_though_it_fails_fast() -> None:
    clock = Clock()
    works, fails = Server(clock, 0.1), Server(clock, 0.1, failing=0.9)
    work_through([works, fails], clock, jobs=2000, at_a_time=4)

    assert fails.began < 0.2 * works.began
    assert fails.began > 0


def test_an_endpoint_that_was_slow_once_is_found_again() -> None:
    clock = Clock()
    one, two = Server(clock, 0.1), Server(clock, 0.1)
    two.health.succeeded(30.0)
    work_through([one, two], clock, jobs=100, at_a_time=2)
    assert two.began <= 1

    work_through([one, two], clock, jobs=6000, at_a_time=2)
    assert two.began > 1000
