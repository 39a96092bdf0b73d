"""One endpoint's health: when its circuit opens and closes, what is remembered of its requests."""

import pytest

from vaefarm_worker.remote.health import REMEMBERED, Health
from vaefarm_worker.remote.pacing import Pacing


class Clock:
    """A clock that stands until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A health, its clock, and what its circuit did."""

    def __init__(self, pacing: Pacing | None = None) -> None:
        self.clock = Clock()
        self.changes: list[tuple[str, str, str]] = []
        self.health = Health(pacing or Pacing(), self._note, self.clock)

    def _note(self, old: str, new: str, reason: str) -> None:
        # It is told of once it is so.
        assert self.health.circuit == new
        self.changes.append((old, new, reason))


@pytest.fixture
def watched() -> Watched:
    return Watched()


def error(text: str = "500: no") -> Exception:
    return RuntimeError(text)


def test_three_failures_behind_one_another_open_the_circuit(watched: Watched) -> None:
    health = watched.health
    for _ in range(2):
        health.failed(error())
        health.failed(error())
        health.succeeded(0.1)
    assert health.can_be_asked
    assert watched.changes == []

    for number in range(3):
        health.failed(error(f"failure {number}"))
    assert not health.can_be_asked
    assert watched.changes == [("closed", "open", "failure 2")]


def test_one_fatal_failure_opens_the_circuit(watched: Watched) -> None:
    watched.health.failed(error("404: no"), fatal=True)

    assert watched.changes == [("closed", "open", "404: no")]


def test_what_was_under_way_when_the_circuit_opened_changes_nothing(watched: Watched) -> None:
    health = watched.health
    health.failed(error(), fatal=True)
    health.succeeded(0.1)
    for _ in range(10):
        health.failed(error())
    assert watched.changes == [("closed", "open", "500: no")]

    health.half_open()
    health.succeeded(0.1)
    for _ in range(10):
        health.failed(error())
    assert health.circuit == "half-open"


def test_a_known_latent_closes_the_circuit_or_opens_it_again(watched: Watched) -> None:
    health = watched.health
    health.failed(error(), fatal=True)
    health.half_open()
    health.probed(error("503: still asleep"))
    health.half_open()
    health.probed(None)

    assert [change[:2] for change in watched.changes] == [
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "open"),
        ("open", "half-open"),
        ("half-open", "closed"),
    ]
    assert watched.changes[2][2] == "503: still asleep"
    assert (health.failed_count, health.succeeded_count) == (1, 0)


def test_a_known_latent_that_fails_opens_a_closed_circuit_and_one_that_does_not_clears_failures(
    watched: Watched,
) -> None:
    health = watched.health
    health.failed(error())
    health.failed(error())
    health.probed(None)
    health.failed(error())
    assert health.can_be_asked

    health.probed(error())
    assert [change[:2] for change in watched.changes] == [("closed", "open")]


def test_a_circuit_that_closed_opens_after_three_failures_again(watched: Watched) -> None:
    health = watched.health
    for _ in range(3):
        health.failed(error())
    health.half_open()
    health.probed(None)
    health.failed(error())
    health.failed(error())
    assert health.can_be_asked

    health.failed(error())
    assert not health.can_be_asked


def test_a_known_latent_changes_nothing_while_the_circuit_is_open(watched: Watched) -> None:
    health = watched.health
    health.failed(error(), fatal=True)
    health.plan_probe(0.0)
    health.probed(None)
    health.probed(error())

    assert [change[:2] for change in watched.changes] == [("closed", "open")]


def test_to_be_asked_to_come_later_is_no_failure(watched: Watched) -> None:
    health = watched.health
    for _ in range(10):
        health.put_off(error("429: busy"))

    assert health.can_be_asked
    state = health.state("demo", "near", "https://near/", 8)
    assert (state.failed, state.error_rate, state.last_error) == (0, 0.0, "429: busy")


def test_an_endpoint_rests_as_long_as_it_said_and_an_hour_at_most(watched: Watched) -> None:
    health, clock = watched.health, watched.clock
    health.rest(10)
    health.rest(5)
    assert health.rest_seconds == 10
    assert not health.can_be_asked
    assert health.state("demo", "near", "https://near/", 8).resting_until > 0

    clock.now += 10
    assert health.can_be_asked
    assert health.state("demo", "near", "https://near/", 8).resting_until == 0
    health.rest(10**9)
    assert health.rest_seconds == 3600


def test_a_latency_rises_at_once_and_falls_slowly() -> None:
    watched = Watched(Pacing(latency_decay=10.0))
    health, clock = watched.health, watched.clock
    health.succeeded(0.1)
    health.succeeded(5.0)
    assert health.peak_seconds == 5.0

    seen = []
    for _ in range(3):
        clock.now += 1
        health.succeeded(0.1)
        seen.append(health.peak_seconds or 0.0)
    assert 5.0 > seen[0] > seen[1] > seen[2] > 3.0
    clock.now += 100
    health.succeeded(0.1)
    assert health.peak_seconds == pytest.approx(0.1, rel=0.01)


def test_a_latency_fades_while_nobody_asks() -> None:
    watched = Watched(Pacing(latency_decay=10.0))
    watched.health.succeeded(5.0)
    assert watched.health.faded_seconds == 5.0

    watched.clock.now += 10
    assert watched.health.faded_seconds == pytest.approx(5.0 / 2.71828, rel=1e-3)
    assert watched.health.peak_seconds == 5.0


def test_rates_and_percentiles_are_of_the_last_hundred(watched: Watched) -> None:
    health = watched.health
    assert health.success_rate == 1.0
    for _ in range(REMEMBERED):
        health.failed(error())
    for number in range(1, 81):
        health.succeeded(number / 100)
    state = health.state("demo", "near", "https://near/", 8)

    assert (state.succeeded, state.failed, state.error_rate) == (80, 100, 0.2)
    assert (state.latency_p50_seconds, state.latency_p95_seconds) == (0.4, 0.76)
    assert health.success_rate == 81 / 101
    assert health.percentile(95, least=81) is None
