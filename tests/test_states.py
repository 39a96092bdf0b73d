"""A job's states: whatever is called in whatever order, by whoever holds a token or once held it, Redis agrees with a
model of a few lines. On fakeredis and on the real Redis.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import fakeredis
import hypothesis.strategies as st
import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rq.utils import as_text

from vaefarm_producer.submission import PreparedJob, prepare
from vaefarm_shared import keys, leases, transitions
from vaefarm_shared.blobs import latent_name
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import JobConflict
from vaefarm_shared.job import JobStatus
from vaefarm_shared.leases import Claim, How, Source, Wanted
from vaefarm_shared.reading import read_statuses
from vaefarm_shared.transitions import LOST, Outcome, Submission

#: Few jobs, so that calls meet.
IDS: Final[tuple[str, ...]] = ("a", "b", "c")

QUEUE: Final[str] = "vaefarm.demo.normal.s.default"

#: Bytes that each job is reckoned to hold until it ends.
HELD: Final[int] = 1000

MAX_ATTEMPTS: Final[int] = 2

#: Seconds of a lease that stands for as long as the test lasts, and of one that is over at once.
LIVE, OVER = 600.0, -1.0

ENDED: Final = frozenset({"finished", "failed", "canceled", "expired"})

RQ_STATUS: Final = {"expired": "canceled"}


@dataclass
class Model:
    """What is true of one job."""

    status: str
    attempts: int = 0
    claim: Claim | None = None
    is_over: bool = False
    begun: bool = False
    shared: bool = False
    #: The token and status of the settle that ended it: repeating that one is no loss.
    settled: tuple[str, str] | None = None


def submission(job_id: str, content: float) -> Submission:
    contract = Catalogue.load()["demo"].contract
    assert contract is not None
    prepared: PreparedJob = prepare(np.full((1, 4, 8, 8), content, np.float32), "demo", contract, job_id, {})
    name = latent_name(job_id, prepared.spec.request_hash)
    return Submission(prepared.spec, f"redis:{name}", prepared.packed, HELD)


JOBS: Final = {job_id: submission(job_id, 0.0) for job_id in IDS}
OTHERS: Final = {job_id: submission(job_id, 1.0) for job_id in IDS}

any_id = st.sampled_from(IDS)
#: One of all claims that ever were: those of jobs in hand first, then the newest.
any_claim = st.integers(0, 6)


def has_claims(machine: "JobStates") -> bool:
    return any(machine.world.claims.values())


def has_held(machine: "JobStates") -> bool:
    return any(model.claim is not None for model in machine.world.jobs.values())


def has_begun(machine: "JobStates") -> bool:
    return any(model.begun for model in machine.world.jobs.values())


def has_ended(machine: "JobStates") -> bool:
    return any(model.status in (ENDED | {"discarded"}) - {"finished"} for model in machine.world.jobs.values())


def has_queued(machine: "JobStates") -> bool:
    return bool(machine.world.queue)


@dataclass
class World:
    """Every job, the queue, and who ever claimed what."""

    jobs: dict[str, Model] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)
    claims: dict[str, list[Claim]] = field(default_factory=lambda: {job_id: [] for job_id in IDS})
    told: int = 0


class JobStates(RuleBasedStateMachine):
    """Calls the transitions, and keeps the model beside them."""

    connection: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.connection.flushdb()
        self.world = World()
        self.heard = 0
        self.pubsub = self.connection.pubsub(ignore_subscribe_messages=True)
        self.pubsub.psubscribe(keys.done("*"))

    def teardown(self) -> None:
        self.pubsub.close()

    def one_claim(self, place: int) -> tuple[str, Claim, bool]:
        """A claim of some job, and whether the job is in its hands."""
        held = {one: model.claim for one, model in self.world.jobs.items() if model.claim is not None}
        past = [(one, claim, False) for one, claims in self.world.claims.items() for claim in reversed(claims)]
        known = [(one, claim, True) for one, claim in held.items()]
        known += [one for one in past if held.get(one[0]) != one[1]]
        return known[place % len(known)]

    def release(self, job_id: str, *, free: bool) -> None:
        """Put a job at the front of the queue."""
        model = self.world.jobs[job_id]
        model.attempts -= model.begun and free
        model.status, model.claim, model.begun, model.is_over = "queued", None, False, False
        self.world.queue.insert(0, job_id)

    def end(self, job_id: str, status: str) -> None:
        model = self.world.jobs[job_id]
        model.status, model.claim, model.begun = status, None, False
        self.world.told += 1

    @initialize()
    def submit_all(self) -> None:
        for job_id in IDS:
            self.submit(job_id)

    @precondition(has_ended)
    @rule()
    def submit_again(self) -> None:
        self.submit_all()

    @rule(job_id=any_id, what=st.sampled_from(["submit", "submit_other", "cancel", "cancel_many", "retry", "discard"]))
    def from_outside(self, job_id: str, what: str) -> None:
        """What those who hold no token may do; one rule, so that it is not most of what happens."""
        getattr(self, what)(job_id)

    def submit(self, job_id: str) -> None:
        model = self.world.jobs.get(job_id)
        statuses = transitions.submit(self.connection, [JOBS[job_id]])
        if model is None or model.status in ENDED - {"finished"} or model.status == "discarded":
            self.world.jobs[job_id] = Model("queued")
            self.world.queue.append(job_id)
        assert statuses == [self.world.jobs[job_id].status]

    def submit_other(self, job_id: str) -> None:
        with pytest.raises(JobConflict):
            transitions.submit(self.connection, [OTHERS[job_id]])

    @precondition(has_queued)
    @rule(most=st.integers(1, 3), lease=st.sampled_from([LIVE, OVER]))
    def claim(self, most: int, lease: float) -> None:
        expected: list[str] = []
        while self.world.queue and len(expected) < most:
            job_id = self.world.queue.pop(0)
            # An entry that a bulk cancel left behind, or whose job is held by now, is dropped.
            model = self.world.jobs[job_id]
            if model.status == "queued" and model.claim is None and job_id not in expected:
                expected.append(job_id)
        wanted = Wanted((Source("demo", "normal", 0.0, ("s",)),), most, 1 << 40, lease)
        claimed = [one.claim for one in leases.claim(self.connection, "w", wanted)]
        assert [claim.job_id for claim in claimed] == expected
        for claim in claimed:
            model = self.world.jobs[claim.job_id]
            model.claim, model.is_over = claim, lease == OVER
            self.world.claims[claim.job_id].append(claim)

    @precondition(has_claims)
    @rule(place=any_claim, shared=st.booleans(), late=st.booleans())
    def begin(self, place: int, shared: bool, late: bool) -> None:
        job_id, claim, is_present = self.one_claim(place)
        deadline = 0.0 if late else None
        (verdict,) = transitions.begin(self.connection, [(claim, deadline)], "w", shared=shared)
        model = self.world.jobs[job_id]
        if not is_present:
            assert verdict == LOST
        elif late and not model.begun:
            assert verdict == transitions.EXPIRED
        else:
            if not model.begun:
                model.status, model.attempts, model.begun, model.shared = "started", model.attempts + 1, True, shared
            assert verdict == model.attempts

    @precondition(has_held)
    @rule(shared=st.booleans())
    def begin_all(self, shared: bool) -> None:
        for place in range(sum(model.claim is not None for model in self.world.jobs.values())):
            self.begin(place, shared, late=False)

    @precondition(has_begun)
    @rule()
    def finish_all(self) -> None:
        for job_id in [one for one, model in self.world.jobs.items() if model.begun]:
            self.settle_as(job_id, self.world.claims[job_id][-1], True, "finished")

    @precondition(has_claims)
    @rule(place=any_claim, status=st.sampled_from(["finished", "failed", "expired"]))
    def settle(self, place: int, status: str) -> None:
        job_id, claim, is_present = self.one_claim(place)
        self.settle_as(job_id, claim, is_present, status)

    def settle_as(self, job_id: str, claim: Claim, is_present: bool, status: str) -> None:
        model = self.world.jobs[job_id]
        if status == "finished" and is_present and not model.begun:
            return
        (took_effect,) = transitions.settle(self.connection, [Outcome(claim, JobStatus(status), "w", "for a reason")])
        assert took_effect == (is_present or model.settled == (claim.token, status))
        if is_present:
            self.end(job_id, status)
            model.settled = (claim.token, status)

    @precondition(has_claims)
    @rule(place=any_claim, how=st.sampled_from(["free", "alone", "attempt"]))
    def give_back(self, place: int, how: How) -> None:
        job_id, claim, is_present = self.one_claim(place)
        assert leases.give_back(self.connection, [(claim, how)], "w") == [is_present]
        if is_present:
            self.release(job_id, free=how != "attempt")

    @precondition(has_claims)
    @rule(place=any_claim, lease=st.sampled_from([LIVE, OVER]))
    def renew(self, place: int, lease: float) -> None:
        job_id, claim, is_present = self.one_claim(place)
        assert leases.renew(self.connection, [(job_id, claim.token)], lease) == is_present
        if is_present:
            self.world.jobs[job_id].is_over = lease == OVER

    @precondition(has_held)
    @rule()
    def reap(self) -> None:
        over = {one: model for one, model in self.world.jobs.items() if model.claim and model.is_over}
        exhausted = {
            one for one, model in over.items() if model.begun and not model.shared and model.attempts >= MAX_ATTEMPTS
        }
        reaped = leases.reap(self.connection, MAX_ATTEMPTS)
        assert {one.claim.job_id for one in reaped} == set(over)
        assert {one.claim.job_id for one in reaped if one.exhausted} == exhausted
        for one in reaped:
            if one.exhausted:
                assert transitions.settle(self.connection, [Outcome(one.claim, JobStatus.FAILED, "w", "silent")]) == [
                    True
                ]
                self.end(one.claim.job_id, "failed")
                self.world.jobs[one.claim.job_id].settled = (one.claim.token, "failed")
            else:
                model = self.world.jobs[one.claim.job_id]
                self.release(one.claim.job_id, free=model.shared)

    def cancel(self, job_id: str) -> None:
        status = transitions.cancel(self.connection, job_id)
        if self.cancels(job_id, status):
            self.world.queue = [one for one in self.world.queue if one != job_id]

    def cancel_many(self, job_id: str) -> None:
        self.cancels(job_id, transitions.cancel_many(self.connection, [job_id])[0])

    def cancels(self, job_id: str, status: JobStatus | None) -> bool:
        model = self.world.jobs[job_id]
        if model.status == "discarded":
            assert status is None
            return False
        canceled = model.status not in ENDED
        if canceled:
            self.end(job_id, "canceled")
            model.settled = None
        assert status == model.status
        return canceled

    def retry(self, job_id: str) -> None:
        model = self.world.jobs[job_id]
        verdict = transitions.retry(self.connection, job_id)
        if model.status == "failed":
            assert verdict == "queued"
            self.world.jobs[job_id] = Model("queued")
            self.world.queue.append(job_id)
        else:
            assert verdict == ("" if model.status == "discarded" else model.status)

    def discard(self, job_id: str) -> None:
        model = self.world.jobs[job_id]
        left = transitions.discard(self.connection, job_id)
        assert (left is not None) == (model.status in ENDED)
        if left is not None:
            # Latents of failed jobs are blobs of the caller's to remove.
            for reference in left:
                self.connection.delete(keys.blob(reference.partition(":")[2]))
            model.status, model.settled = "discarded", None

    def members(self, key: str) -> list[str]:
        """The members of a sorted set."""
        return [as_text(raw) for raw in self.connection.zrange(key, 0, -1)]  # type: ignore[arg-type]

    @invariant()
    def every_job_is_as_the_model_says(self) -> None:
        for job_id, model in self.world.jobs.items():
            (status,) = read_statuses(self.connection, [job_id])
            assert status == ("expired" if model.status == "discarded" else model.status), job_id
            if model.status != "discarded":
                assert int(self.connection.hget(keys.job(job_id), "attempts") or -1) == model.attempts
                rq_status = self.connection.hget(f"rq:job:{job_id}", "status")
                assert rq_status == RQ_STATUS.get(model.status, model.status).encode()

    @invariant()
    def a_job_is_held_by_one_claim_or_none(self) -> None:
        held = {one: model.claim.token for one, model in self.world.jobs.items() if model.claim is not None}
        found = {one: self.connection.get(keys.lease(one)) for one in IDS}
        assert {one: as_text(token) for one, token in found.items() if token is not None} == held
        assert set(self.members(keys.LEASES)) == set(held)

    @invariant()
    def the_queue_is_as_the_model_says(self) -> None:
        assert [as_text(raw) for raw in self.connection.lrange(f"rq:queue:{QUEUE}", 0, -1)] == self.world.queue
        is_listed = self.connection.zscore(keys.queue_index("demo", "normal"), QUEUE) is not None
        assert is_listed or not self.world.queue, "a queue that is not empty is found by claims"

    @invariant()
    def rq_knows_of_an_execution_just_while_a_decode_has_begun(self) -> None:
        begun = {one for one, model in self.world.jobs.items() if model.begun}
        wip = {entry.partition(":")[0] for entry in self.members(f"rq:wip:{QUEUE}")}
        assert wip == begun
        assert {one for one in IDS if self.connection.exists(f"rq:executions:{one}")} == begun

    @invariant()
    def a_latent_is_there_for_as_long_as_it_may_be_needed(self) -> None:
        for job_id, model in self.world.jobs.items():
            ttl = self.connection.ttl(keys.blob(JOBS[job_id].latent_reference.partition(":")[2]))
            if model.status in ("queued", "started"):
                assert ttl == -1, "there, without an end"
            elif model.status == "failed":
                assert ttl > 0, "there, with an end"
            else:
                assert ttl == -2, "gone"

    @invariant()
    def the_budget_counts_what_has_not_ended(self) -> None:
        waiting = [one for one, model in self.world.jobs.items() if model.status in ("queued", "started")]
        failed = [one for one, model in self.world.jobs.items() if model.status == "failed"]
        used = [int(raw or 0) for raw in self.connection.hmget(keys.BUDGET, "bytes", "jobs")]
        kept = sum(len(JOBS[one].latent_bytes) for one in failed)
        assert used == [HELD * len(waiting) + kept, len(waiting)]

    @invariant()
    def each_end_is_told_once(self) -> None:
        while self.pubsub.get_message() is not None:
            self.heard += 1
        assert self.heard == self.world.told


def run(connection: redis.Redis, examples: int) -> None:
    machine: Any = type("Machine", (JobStates,), {"connection": connection})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_jobs_states_are_the_models_on_fakeredis() -> None:
    run(fakeredis.FakeRedis(), 30)


@pytest.mark.redis
def test_a_jobs_states_are_the_models_on_redis(connection: redis.Redis) -> None:
    run(connection, 150)
