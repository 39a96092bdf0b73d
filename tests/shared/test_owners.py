"""Owners: an id of somebody else's is one that nobody knows, whatever became of its job."""

from collections.abc import Callable

import numpy as np
import pytest
import redis
from tests.claims import begin, take
from tests.job_model import submission

from vaefarm_producer import Farm, InvalidOption
from vaefarm_shared import budget, keys, leases, transitions
from vaefarm_shared.errors import JobConflict, JobNotFound, QuotaExceeded
from vaefarm_shared.inflight import OwnerCount, read_inflight
from vaefarm_shared.job import JobStatus
from vaefarm_shared.reading import not_found, read_owned_statuses, read_record
from vaefarm_shared.transitions import Outcome

ANNS = submission("theirs", 0.0, "ann")

#: What the release before did not write.
LATER_FIELDS = ("owner", "place", "webhook")
LATER_KEYS = (keys.EVENTS, keys.INFLIGHT, keys.PACE, keys.WEBHOOKS, keys.PUSHED)


def finish(connection: redis.Redis, status: JobStatus = JobStatus.FINISHED) -> bool:
    (claim,) = take(connection)
    begin(connection, claim)
    (took_effect,) = transitions.settle(connection, [Outcome(claim, status, "by-hand", "for a reason")])
    return took_effect


def everything(connection: redis.Redis) -> dict[bytes, object]:
    """All that Redis holds."""
    return {
        key: connection.hgetall(key) if connection.type(key) == b"hash" else connection.dump(key)
        for key in connection.scan_iter("*")
    }


STAGES: dict[str, Callable[[redis.Redis], object]] = {
    "queued": lambda _: None,
    "started": lambda connection: begin(connection, *take(connection)),
    "finished": finish,
    "failed": lambda connection: finish(connection, JobStatus.FAILED),
    "canceled": lambda connection: transitions.cancel(connection, "theirs"),
    "discarded": lambda connection: (finish(connection), transitions.discard(connection, "theirs")),
    "past its life": lambda connection: (finish(connection), connection.delete(keys.job("theirs"))),
}


@pytest.mark.redis
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("content", [0.0, 1.0], ids=["same content", "other content"])
def test_anothers_id_is_unknown_at_every_stage(stage: str, content: float, connection: redis.Redis) -> None:
    transitions.submit(connection, [ANNS])
    STAGES[stage](connection)
    before = everything(connection)

    with pytest.raises(JobNotFound) as refused:
        transitions.submit(connection, [submission("theirs", content, "bob")])

    assert str(refused.value) == str(not_found("theirs"))
    assert everything(connection) == before
    assert read_record(connection, "theirs").owner == "ann"
    (found,) = read_owned_statuses(connection, ["theirs"])
    assert found is not None
    assert found[1] == "ann"


def test_the_admins_id_is_unknown_to_others(connection: redis.Redis) -> None:
    transitions.submit(connection, [submission("ours", 0.0)])
    with pytest.raises(JobNotFound):
        transitions.submit(connection, [submission("ours", 0.0, "bob")])
    assert read_owned_statuses(connection, ["ours", "none"]) == [(JobStatus.QUEUED, "admin"), None]


def test_its_owner_and_the_admin_may_repeat_a_submit(connection: redis.Redis) -> None:
    assert transitions.submit(connection, [ANNS]) == ["queued"]
    assert transitions.submit(connection, [ANNS]) == ["queued"]
    assert transitions.submit(connection, [submission("theirs", 0.0)]) == ["queued"]
    assert read_record(connection, "theirs").owner == "ann"
    with pytest.raises(JobConflict):
        transitions.submit(connection, [submission("theirs", 1.0)])


def test_no_option_of_a_client_names_an_owner(farm: Farm) -> None:
    with pytest.raises(InvalidOption, match="owner"):
        farm.submit(np.zeros((1, 4, 8, 8), np.float32), vae="demo", owner="ann")  # type: ignore[call-arg]
    job = farm.submit(np.zeros((1, 4, 8, 8), np.float32), vae="demo")
    assert job.record().owner == "admin"


@pytest.mark.redis
def test_a_quota_bounds_what_an_owner_has_under_way_and_nobody_else(connection: redis.Redis) -> None:
    def submit(name: str, owner: str, quota: int | None = 2) -> object:
        return transitions.submit(connection, [submission(name, 0.0, owner)], quota=quota)

    submit("one", "ann")
    submit("two", "ann")
    with pytest.raises(QuotaExceeded, match="'ann' has 2 jobs") as refused:
        submit("three", "ann")
    assert refused.value.retry_after_seconds > 0
    assert not list(connection.scan_iter("*three*")), "nothing of it stays"
    assert submit("one", "ann") == ["queued"], "a repeated submit is none more"
    for number in range(3):
        submit(f"bobs-{number}", "bob", quota=None)
        submit(f"admins-{number}", "admin")
    assert read_inflight(connection) == {"ann": 2, "bob": 3}

    assert finish(connection)
    assert submit("three", "ann") == ["queued"]
    transitions.cancel_many(connection, ["two", "three", "bobs-0", "bobs-1", "bobs-2"])
    assert read_inflight(connection) == {}


def test_what_a_batch_has_room_for_is_queued(connection: redis.Redis) -> None:
    jobs = [submission(name, 0.0, "ann") for name in ("one", "two", "three")]
    with pytest.raises(QuotaExceeded):
        transitions.submit(connection, jobs, quota=2)
    assert [status and status[0] for status in read_owned_statuses(connection, ["one", "two", "three"])] == [
        "queued",
        "queued",
        None,
    ]


@pytest.mark.redis
@pytest.mark.parametrize("drift", ["0", "1", "7", "evicted"])
def test_a_count_that_drifted_is_put_right(drift: str, connection: redis.Redis) -> None:
    transitions.submit(connection, [submission(f"anns-{n}", 0.0, "ann") for n in range(3)])
    transitions.submit(connection, [submission(f"bobs-{n}", 0.0, "bob") for n in range(2)])
    assert finish(connection)
    if drift == "evicted":
        connection.delete(keys.INFLIGHT)
    else:
        connection.hset(keys.INFLIGHT, "ann", drift)
    connection.hset(keys.INFLIGHT, "nobody", 5)

    budget.repair(connection)

    assert read_inflight(connection) == {"ann": 2, "bob": 2}


def test_of_an_owner_whose_jobs_move_meanwhile_nothing_is_corrected(connection: redis.Redis) -> None:
    """What was counted of it may be neither what was nor what is."""
    transitions.submit(connection, [submission("anns", 0.0, "ann"), submission("bobs", 0.0, "bob")])
    connection.hset(keys.INFLIGHT, mapping={"ann": 4, "bob": 4})
    count = OwnerCount(connection)
    records = [keys.job(name).encode() for name in ("anns", "bobs")]
    count.add({key: tuple(connection.hmget(key, "status", "owner")) for key in records})  # type: ignore[misc]
    transitions.submit(connection, [submission("more", 0.0, "ann")])
    transitions.cancel(connection, "more")

    assert count.correct() == 1

    assert read_inflight(connection) == {"ann": 4, "bob": 1}


@pytest.mark.redis
def test_what_the_release_before_wrote_is_the_admins_and_ends_well(connection: redis.Redis) -> None:
    """Its records and tombstones have none of the fields that came later."""
    jobs = [submission(name, 0.0) for name in ("waits", "started", "failed", "gone")]
    transitions.submit(connection, jobs)
    claims = {claim.job_id: claim for claim in take(connection, 4)}
    leases.give_back(connection, [(claims["waits"], "free")], "by-hand")
    begin(connection, *(claims[name] for name in ("started", "failed", "gone")))
    for name in ("failed", "gone"):
        transitions.settle(connection, [Outcome(claims[name], JobStatus.FAILED, "by-hand", "bad")])
    transitions.discard(connection, "gone")
    for job in jobs:
        connection.hdel(keys.job(job.spec.id), *LATER_FIELDS)
    connection.delete(*LATER_KEYS)

    assert [found and found[1] for found in read_owned_statuses(connection, list(claims))] == ["admin"] * 4
    assert read_record(connection, "gone").owner == "admin"
    outcome = Outcome(claims["started"], JobStatus.FINISHED, "by-hand")
    assert transitions.settle(connection, [outcome]) == [True]
    assert transitions.retry(connection, "failed") == "queued"
    assert finish(connection)
    assert finish(connection)
    statuses = [read_record(connection, name).status for name in ("waits", "started", "failed")]
    assert statuses == ["finished"] * 3
    with pytest.raises(JobNotFound):
        transitions.submit(connection, [submission("gone", 0.0, "bob")])
    assert transitions.submit(connection, [submission("gone", 0.0)]) == ["queued"]
