"""A queued job's position is its place in the list, whatever happened to the others; its eta follows from the pace."""

from dataclasses import replace
from typing import Any

import fakeredis
import hypothesis.strategies as st
import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from rq.utils import as_text
from tests.claims import EVERY_SIZE, begin, take
from tests.conftest import Serve
from tests.job_model import QUEUE, submission

from vaefarm_producer import Farm
from vaefarm_shared import keys, leases, transitions
from vaefarm_shared.job import JobStatus
from vaefarm_shared.leases import Claim, Source, Wanted
from vaefarm_shared.pace import Backlog, eta_seconds, read_pace
from vaefarm_shared.reading import read_backlog, read_standing
from vaefarm_shared.scripts import script
from vaefarm_shared.submissions import Submission
from vaefarm_shared.transitions import Outcome
from vaefarm_shared.workers import publish_worker

LATENTS = np.zeros((1, 4, 8, 8), np.float32)

FIRST = submission("job-0", 0.0)


def numbered(number: int) -> Submission:
    """A job like the others; its latent has no part in this."""
    return replace(FIRST, spec=FIRST.spec.model_copy(update={"id": f"job-{number}"}))


class Places(RuleBasedStateMachine):
    """Pushes at both ends, takes from the front, from the middle and from behind those that a worker must not have."""

    connection: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.connection.flushdb()
        self.submitted = 0
        self.claims: list[Claim] = []

    def waiting(self) -> list[str]:
        return [as_text(raw) for raw in self.connection.lrange(f"rq:queue:{QUEUE}", 0, -1)]

    @rule(count=st.integers(1, 4))
    def submit(self, count: int) -> None:
        for _ in range(count):
            transitions.submit(self.connection, [numbered(self.submitted)])
            self.submitted += 1

    @rule(count=st.integers(1, 3), worker=st.sampled_from(["w", "w", "other"]))
    def claim(self, count: int, worker: str) -> None:
        wanted = Wanted((Source("demo", "normal", 0.0, ("s",)),), count, 1 << 40, 600.0)
        self.claims += [one.claim for one in leases.claim(self.connection, worker, wanted)]

    @precondition(lambda self: self.claims)
    @rule(place=st.integers(0, 20), how=st.sampled_from(["free", "avoid", "reaped"]), worker=st.just("w"))
    def give_back(self, place: int, how: Any, worker: str) -> None:
        claim = self.claims.pop(place % len(self.claims))
        if how == "reaped":
            leases.renew(self.connection, [(claim.job_id, claim.token)], -1.0)
            assert len(leases.reap(self.connection, 3)) == 1
        else:
            assert leases.give_back(self.connection, [(claim, how)], worker) == [True]

    @precondition(lambda self: self.waiting())
    @rule(place=st.integers(0, 20), in_bulk=st.booleans())
    def cancel(self, place: int, in_bulk: bool) -> None:
        waiting = self.waiting()
        job_id = waiting[place % len(waiting)]
        if in_bulk:
            transitions.cancel_many(self.connection, [job_id])
        else:
            transitions.cancel(self.connection, job_id)

    @precondition(lambda self: self.waiting())
    @rule(place=st.integers(0, 20))
    def strand(self, place: int) -> None:
        waiting = self.waiting()
        script("strand").run(self.connection, QUEUE, "stem", 60.0, waiting[place % len(waiting)])

    @invariant()
    def every_position_is_right(self) -> None:
        waiting = self.waiting()
        standings = {job_id: read_standing(self.connection, job_id) for job_id in waiting}
        found = {one: standing.position for one, standing in standings.items() if standing.record.status == "queued"}
        assert found == {one: place for place, one in enumerate(waiting, 1) if one in found}
        assert all(standings[one].queued == len(waiting) for one in found)
        assert all(read_standing(self.connection, claim.job_id).position is None for claim in self.claims)

    @invariant()
    def an_empty_queue_leaves_nothing(self) -> None:
        if not self.waiting() and self.connection.zscore(keys.queue_index("demo", "normal"), QUEUE) is None:
            assert not self.connection.exists("vaefarm:pushed", f"vaefarm:gaps:{QUEUE}")


def run(connection: redis.Redis, examples: int) -> None:
    machine: Any = type("Machine", (Places,), {"connection": connection})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_positions_are_the_models_on_fakeredis() -> None:
    run(fakeredis.FakeRedis(), 15)


@pytest.mark.redis
def test_positions_are_the_models_on_redis(connection: redis.Redis) -> None:
    run(connection, 100)


def test_gaps_are_bounded(connection: redis.Redis) -> None:
    jobs = [numbered(n) for n in range(1100)]
    transitions.submit(connection, jobs)
    for job in jobs[1:-1]:
        transitions.cancel(connection, job.spec.id)
    assert connection.zcard(f"vaefarm:gaps:{QUEUE}") == 1000
    assert read_standing(connection, "job-1099").position == 2
    assert read_standing(connection, "job-0").position == 1, "never below the first"


def test_jobs_that_the_release_before_queued_have_no_position_and_do_no_harm(connection: redis.Redis) -> None:
    transitions.submit(connection, [submission(f"old-{n}", 0.0) for n in range(3)])
    connection.delete("vaefarm:pushed")
    for n in range(3):
        connection.hdel(keys.job(f"old-{n}"), "place")
    transitions.submit(connection, [submission("new", 0.0)])
    assert read_standing(connection, "old-1").position is None
    assert read_standing(connection, "new").position == 4
    (claim,) = take(connection)
    assert read_standing(connection, "new").position == 3
    leases.give_back(connection, [(claim, "free")], "by-hand")
    assert [read_standing(connection, name).position for name in ("old-0", "new")] == [1, 4]


def test_a_queued_job_takes_less_than_two_kibibytes(farm: Farm, connection: redis.Redis) -> None:
    """All its keys but the latent, and its entry in the list."""
    jobs = farm.submit_many([LATENTS] * 100, vae="demo")
    found = [key for key in connection.scan_iter(f"*{jobs[0].id}*", count=1000) if b":latent:" not in key]
    entry = int(connection.memory_usage(f"rq:queue:{QUEUE}", samples=0) or 0) / len(jobs)
    assert len(found) == 2
    assert sum(int(connection.memory_usage(key, samples=0) or 0) for key in found) + entry < 2048


@pytest.mark.redis
def test_the_pace_is_learned_from_decodes_alone(connection: redis.Redis) -> None:
    ends = [(2.0, "finished"), (None, "failed"), (4.0, "finished"), (None, "expired")]
    for number, (seconds, status) in enumerate(ends):
        transitions.submit(connection, [numbered(number)])
        (claim,) = take(connection)
        begin(connection, claim)
        outcome = Outcome(claim, JobStatus(status), "w", "", device_seconds=seconds)
        assert transitions.settle(connection, [outcome]) == [True]
    assert read_pace(connection) == {("demo", "s"): pytest.approx(2.2)}


def test_a_worker_teaches_the_pace(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    farm.submit(LATENTS, vae="demo")
    serve()
    assert list(read_pace(connection)) == [("demo", "s")]


def test_the_backlog_is_what_waits_at_its_pace(farm: Farm, connection: redis.Redis) -> None:
    farm.submit_many([LATENTS] * 3, vae="demo")
    farm.submit(np.zeros((1, 4, 128, 128), np.float32), vae="demo", producer="another")
    assert read_backlog(connection) == {"demo": Backlog(4, None)}
    connection.hset(keys.PACE, mapping={"demo:s": 0.5, "demo:m": 4, "sdxl:s": 100})
    assert read_backlog(connection) == {"demo": Backlog(4, 5.5)}
    connection.hdel(keys.PACE, "demo:m")
    assert read_backlog(connection) == {"demo": Backlog(4, 2.0)}, "a size never seen counts as the others"


def test_an_eta_counts_whose_turn_comes_before() -> None:
    mine, paces = "vaefarm.demo.normal.s.mine", {"s": 1.0, "l": 10.0}
    queues = [(mine, 50)]
    assert eta_seconds(3, mine, queues, paces, 1) == 3.0
    assert eta_seconds(3, mine, queues, paces, 2) == 1.5
    queues += [("vaefarm.demo.normal.s.few", 2), ("vaefarm.demo.normal.l.many", 80)]
    assert eta_seconds(3, mine, queues, paces, 1) == 3 + 2 + 3
    queues += [("vaefarm.demo.high.s.urgent", 7)]
    assert eta_seconds(3, mine, queues, paces, 1) == 3 + 2 + 3 + 7
    assert eta_seconds(3, mine, queues, {}, 1) is None
    assert eta_seconds(3, mine, queues, paces, 0) is None


@pytest.mark.redis
def test_a_queued_job_has_an_eta_once_a_worker_serves_it(farm: Farm, connection: redis.Redis) -> None:
    jobs = farm.submit_many([LATENTS] * 3, vae="demo")
    farm.submit(LATENTS, vae="demo", priority="high")
    farm.submit(LATENTS, vae="demo", priority="low")
    assert read_standing(connection, jobs[2].id).eta_seconds is None
    connection.hset(keys.PACE, "demo:s", 2.0)
    connection.sadd("rq:workers", "rq:worker:one")
    publish_worker(connection, "one", {"vaes": {"demo": ""}, "sizes": {"demo": EVERY_SIZE}})

    assert read_standing(connection, jobs[2].id).eta_seconds == 8.0
    farm.pause("demo")
    assert read_standing(connection, jobs[2].id).eta_seconds is None
    farm.resume("demo")
    take(connection, 2)
    standing = read_standing(connection, jobs[2].id)
    assert (standing.position, standing.queued, standing.eta_seconds) == (2, 2, 4.0)
