"""A job's states: whatever is called in whatever order, by whoever holds a token or once held it, Redis agrees with a
model of a few lines. On fakeredis and on the real Redis.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import fakeredis
import hypothesis.strategies as st
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
from tests.job_model import (
    ENDED,
    FOREIGN,
    HELD,
    IDS,
    JOBS,
    LIVE,
    MAX_ATTEMPTS,
    OTHERS,
    OVER,
    OWNERS,
    QUEUE,
    RQ_STATUS,
    Model,
    World,
)

from vaefarm_shared import keys, leases, transitions
from vaefarm_shared.errors import JobConflict, JobNotFound
from vaefarm_shared.events import START, Event, read_events
from vaefarm_shared.inflight import read_inflight
from vaefarm_shared.job import ADMIN, JobStatus
from vaefarm_shared.leases import Claim, How, Source, Wanted
from vaefarm_shared.reading import read_owned_statuses, read_record, read_standing, read_statuses
from vaefarm_shared.transitions import LOST, Outcome

any_id = st.sampled_from(IDS)
#: One of all claims that ever were: those of jobs in hand first, then the newest.
any_claim = st.integers(0, 6)


def while_some(is_so: Callable[[World], bool]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Only while the world is so."""
    return precondition(lambda machine: is_so(machine.world))


class JobStates(RuleBasedStateMachine):
    """Calls the transitions, and keeps the model beside them."""

    connection: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.connection.flushdb()
        self.world = World()
        self.heard = 0
        self.seen: list[Event] = []
        self.pubsub = self.connection.pubsub(ignore_subscribe_messages=True)
        self.pubsub.psubscribe(keys.done("*"))

    def teardown(self) -> None:
        self.pubsub.close()

    @initialize()
    def submit_all(self) -> None:
        for job_id in IDS:
            self.submit(job_id)

    @while_some(World.has_ended)
    @rule()
    def submit_again(self) -> None:
        self.submit_all()

    @rule(
        job_id=any_id,
        what=st.sampled_from(["submit", "submit_other", "submit_foreign", "cancel", "cancel_many", "retry", "discard"]),
    )
    def from_outside(self, job_id: str, what: str) -> None:
        """What those who hold no token may do; one rule, so that it is not most of what happens."""
        getattr(self, what)(job_id)

    def submit(self, job_id: str) -> None:
        model = self.world.jobs.get(job_id)
        statuses = transitions.submit(self.connection, [JOBS[job_id]])
        if model is None or model.status in ENDED - {"finished"} or model.status == "discarded":
            self.world.jobs[job_id] = Model("queued")
            self.world.queue.append(job_id)
            self.world.tell(job_id, "queued")
        assert statuses == [self.world.jobs[job_id].status]

    def submit_other(self, job_id: str) -> None:
        with pytest.raises(JobConflict):
            transitions.submit(self.connection, [OTHERS[job_id]])

    def submit_foreign(self, job_id: str) -> None:
        for foreign in (one for one in FOREIGN if one.spec.id == job_id):
            with pytest.raises(JobNotFound):
                transitions.submit(self.connection, [foreign])

    @while_some(World.has_queued)
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

    @while_some(World.has_claims)
    @rule(place=any_claim, shared=st.booleans(), late=st.booleans())
    def begin(self, place: int, shared: bool, late: bool) -> None:
        job_id, claim, is_present = self.world.one_claim(place)
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
                self.world.tell(job_id, "started")
            assert verdict == model.attempts

    @while_some(World.has_held)
    @rule(shared=st.booleans())
    def begin_all(self, shared: bool) -> None:
        for place in range(sum(model.claim is not None for model in self.world.jobs.values())):
            self.begin(place, shared, late=False)

    @while_some(World.has_begun)
    @rule()
    def finish_all(self) -> None:
        for job_id in [one for one, model in self.world.jobs.items() if model.begun]:
            self.settle_as(job_id, self.world.claims[job_id][-1], True, "finished")

    @while_some(World.has_claims)
    @rule(place=any_claim, status=st.sampled_from(["finished", "failed", "expired"]))
    def settle(self, place: int, status: str) -> None:
        job_id, claim, is_present = self.world.one_claim(place)
        self.settle_as(job_id, claim, is_present, status)

    def settle_as(self, job_id: str, claim: Claim, is_present: bool, status: str) -> None:
        model = self.world.jobs[job_id]
        if status == "finished" and is_present and not model.begun:
            return
        (took_effect,) = transitions.settle(self.connection, [Outcome(claim, JobStatus(status), "w", "for a reason")])
        assert took_effect == (is_present or model.settled == (claim.token, status))
        if is_present:
            self.world.end(job_id, status)
            model.settled = (claim.token, status)

    @while_some(World.has_claims)
    @rule(place=any_claim, how=st.sampled_from(["free", "alone", "attempt"]))
    def give_back(self, place: int, how: How) -> None:
        job_id, claim, is_present = self.world.one_claim(place)
        assert leases.give_back(self.connection, [(claim, how)], "w") == [is_present]
        if is_present:
            self.world.release(job_id, free=how != "attempt")

    @while_some(World.has_claims)
    @rule(place=any_claim, lease=st.sampled_from([LIVE, OVER]))
    def renew(self, place: int, lease: float) -> None:
        job_id, claim, is_present = self.world.one_claim(place)
        assert leases.renew(self.connection, [(job_id, claim.token)], lease) == is_present
        if is_present:
            self.world.jobs[job_id].is_over = lease == OVER

    @while_some(World.has_held)
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
                self.world.end(one.claim.job_id, "failed")
                self.world.jobs[one.claim.job_id].settled = (one.claim.token, "failed")
            else:
                model = self.world.jobs[one.claim.job_id]
                self.world.release(one.claim.job_id, free=model.shared)

    def cancel(self, job_id: str) -> None:
        status = transitions.cancel(self.connection, job_id)
        if self.cancels(job_id, status):
            self.world.queue = [one for one in self.world.queue if one != job_id]

    def cancel_many(self, job_id: str) -> None:
        self.world.has_stale_entries |= self.cancels(job_id, transitions.cancel_many(self.connection, [job_id])[0])

    def cancels(self, job_id: str, status: JobStatus | None) -> bool:
        model = self.world.jobs[job_id]
        if model.status == "discarded":
            assert status is None
            return False
        canceled = model.status not in ENDED
        if canceled:
            self.world.end(job_id, "canceled")
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
            self.world.tell(job_id, "queued")
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
            if model.status != "expired":
                self.world.tell(job_id, "expired")
            model.status, model.settled = "discarded", None

    def members(self, key: str) -> list[str]:
        """The members of a sorted set."""
        return [as_text(raw) for raw in self.connection.zrange(key, 0, -1)]  # type: ignore[arg-type]

    @invariant()
    def every_job_is_as_the_model_says(self) -> None:
        for job_id, model in self.world.jobs.items():
            (status,) = read_statuses(self.connection, [job_id])
            assert read_owned_statuses(self.connection, [job_id]) == [(status, OWNERS[job_id])]
            assert read_record(self.connection, job_id).owner == OWNERS[job_id]
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
    def each_owner_has_as_many_jobs_as_have_not_ended(self) -> None:
        owners = [OWNERS[one] for one, model in self.world.jobs.items() if model.status in ("queued", "started")]
        assert read_inflight(self.connection) == Counter(one for one in owners if one != ADMIN)

    @invariant()
    def a_job_that_is_listed_once_knows_its_place(self) -> None:
        for job_id, model in self.world.jobs.items():
            waits = model.status == "queued" and model.claim is None
            position = read_standing(self.connection, job_id).position
            assert (position is not None) == waits
            if waits and not self.world.has_stale_entries:
                assert position == self.world.queue.index(job_id) + 1

    @invariant()
    def the_last_end_waits_for_its_delivery(self) -> None:
        found = {one: self.connection.hget(keys.webhook(one), "status") for one in self.members(keys.WEBHOOKS)}
        assert {one: as_text(status or b"") for one, status in found.items()} == self.world.webhooks

    @invariant()
    def each_end_is_told_once(self) -> None:
        while self.pubsub.get_message() is not None:
            self.heard += 1
        assert self.heard == self.world.told

    @invariant()
    def the_events_are_the_changes_of_status(self) -> None:
        self.seen += read_events(self.connection, self.seen[-1].id if self.seen else START)
        assert [(one.job_id, one.status, one.owner) for one in self.seen] == self.world.events


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
