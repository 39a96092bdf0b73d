"""From which queue a claim takes: size classes, pauses, and producers that take turns by device seconds."""

import pytest
import redis
import torch
from tests.claims import EVERY_SIZE, begin, take

from vaefarm_producer import Farm
from vaefarm_shared import keys, leases, transitions
from vaefarm_shared.job import JobStatus
from vaefarm_shared.leases import ClaimedJob, Source, Wanted
from vaefarm_shared.transitions import Outcome

SMALL, LARGE = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 128, 128)

#: Device seconds that one small picture is charged.
SECOND = 1.0 / (64 * 64)


def claim(
    connection: redis.Redis, jobs: int, *, pixels: int = 1 << 40, sizes: tuple[str, ...] = EVERY_SIZE
) -> list[ClaimedJob]:
    wanted = Wanted([Source("demo", "normal", SECOND, sizes)], jobs, pixels, 60.0)
    return leases.claim(connection, "by-hand", wanted)


def lanes(claimed: list[ClaimedJob]) -> list[str]:
    return [one.claim.queue.rpartition(".")[2] for one in claimed]


def submit(farm: Farm, producer: str, count: int, latents: torch.Tensor = SMALL) -> None:
    farm.submit_many([latents] * count, vae="demo", producer=producer)


@pytest.mark.redis
def test_a_batch_of_many_does_not_starve_a_producer_of_few(farm: Farm, connection: redis.Redis) -> None:
    submit(farm, "batch", 50)
    assert lanes(claim(connection, 10)) == ["batch"] * 10
    submit(farm, "web", 3)

    assert sorted(lanes(claim(connection, 6))) == ["batch"] * 3 + ["web"] * 3
    assert lanes(claim(connection, 2)) == ["batch"] * 2
    submit(farm, "web", 1)
    assert "web" in lanes(claim(connection, 2)), "it starts where the least served stands, with no debt and no credit"


@pytest.mark.redis
def test_turns_are_by_device_seconds_and_not_by_jobs(farm: Farm, connection: redis.Redis) -> None:
    """A large picture costs as much as 256 small ones, in whichever queue of its lane it is."""
    submit(farm, "large", 2, LARGE)
    submit(farm, "large", 2)
    submit(farm, "small", 300)

    taken = lanes(claim(connection, 200))

    assert taken.count("large") <= 3, "one large and small ones until the first large, then the other's turn"
    assert taken.count("small") >= 197


@pytest.mark.redis
def test_what_a_job_took_beyond_its_estimate_is_charged_when_it_ends(farm: Farm, connection: redis.Redis) -> None:
    submit(farm, "slow", 20)
    submit(farm, "quick", 20)
    [first] = [one for one in claim(connection, 2) if one.claim.queue.endswith("slow")]
    begin(connection, first.claim)
    transitions.settle(connection, [Outcome(first.claim, JobStatus.FAILED, "by-hand", "x", extra_seconds=5.0)])

    assert lanes(claim(connection, 5)) == ["quick"] * 5


def test_a_claim_takes_no_size_that_the_device_does_not_hold(farm: Farm, connection: redis.Redis) -> None:
    submit(farm, "a", 1, LARGE)
    submit(farm, "a", 1)

    assert [one.claim.queue for one in claim(connection, 5, sizes=("s",))] == ["vaefarm.demo.normal.s.a"]
    assert claim(connection, 5, sizes=("s", "l")) == []
    assert [one.claim.queue for one in claim(connection, 5, sizes=("m",))] == ["vaefarm.demo.normal.m.a"]


def test_a_claim_ends_with_the_job_that_fills_its_pixels(farm: Farm, connection: redis.Redis) -> None:
    submit(farm, "a", 10)

    assert len(claim(connection, 10, pixels=3 * 64 * 64)) == 3
    assert len(claim(connection, 10, pixels=1)) == 1, "one, however large it is"


@pytest.mark.redis
def test_nothing_is_claimed_of_a_paused_vae_until_it_is_resumed(farm: Farm, connection: redis.Redis) -> None:
    submit(farm, "a", 2)
    farm.pause("demo")
    assert claim(connection, 5) == []

    farm.resume("demo")

    assert len(claim(connection, 5)) == 2


@pytest.mark.redis
def test_an_empty_queue_leaves_the_index_and_a_returned_job_enters_it_again(
    farm: Farm, connection: redis.Redis
) -> None:
    submit(farm, "a", 1)
    index = keys.queue_index("demo", "normal")
    [one] = claim(connection, 5)
    assert connection.zrange(index, 0, -1) == []

    leases.give_back(connection, [(one.claim, "free")], "by-hand")

    assert connection.zrange(index, 0, -1) == [one.claim.queue.encode()]


@pytest.mark.redis
def test_jobs_come_back_to_the_front_in_their_order(farm: Farm, connection: redis.Redis) -> None:
    ids = [job.id for job in farm.submit_many([SMALL] * 5, vae="demo")]
    claims = take(connection, 3)

    leases.give_back(connection, [(one, "free") for one in claims], "by-hand")

    assert [one.job_id for one in take(connection, 5)] == ids


@pytest.mark.redis
def test_a_worker_does_not_get_back_what_it_handed_back_for_want_of_room(farm: Farm, connection: redis.Redis) -> None:
    first, second = (job.id for job in farm.submit_many([SMALL] * 2, vae="demo"))
    [one] = take(connection, worker="small")

    leases.give_back(connection, [(one, "avoid")], "small", "no room")

    assert [claim.job_id for claim in take(connection, 5, worker="small")] == [second]
    assert [claim.job_id for claim in take(connection, 5, worker="large")] == [first]
    assert farm.job(first).record().last_error == "no room"


@pytest.mark.redis
def test_a_canceled_job_is_dropped_when_its_entry_is_claimed(farm: Farm, connection: redis.Redis) -> None:
    jobs = farm.submit_many([SMALL] * 5, vae="demo")

    farm.cancel_many(jobs[:3])

    assert connection.llen("rq:queue:vaefarm.demo.normal.s.default") == 5, "no walk through the queue for each"
    assert [one.job_id for one in take(connection, 5)] == [job.id for job in jobs[3:]]
    assert {job.status().value for job in jobs[:3]} == {"canceled"}


@pytest.mark.redis
def test_a_claim_looks_behind_however_many_entries_of_canceled_jobs(farm: Farm, connection: redis.Redis) -> None:
    jobs = farm.submit_many([SMALL] * 2300, vae="demo")
    farm.cancel_many(jobs[:-3])

    assert [one.job_id for one in take(connection, 5)] == [job.id for job in jobs[-3:]]


def test_a_canceled_job_that_was_discarded_does_not_come_back_by_its_entry(farm: Farm, connection: redis.Redis) -> None:
    job = farm.submit(SMALL, vae="demo")
    farm.cancel_many([job])
    job.discard()

    assert take(connection) == []
    assert job.status() == "expired"
    assert connection.hget(keys.BUDGET, "jobs") == b"0"


def test_a_producer_beyond_many_others_of_another_size_is_served(farm: Farm, connection: redis.Redis) -> None:
    index = keys.queue_index("demo", "normal")
    connection.zadd(index, {f"vaefarm.demo.normal.m.lane-{n}": 0.0 for n in range(600)})
    submit(farm, "z", 1)
    connection.zadd(index, {"vaefarm.demo.normal.s.z": 5.0})

    assert lanes(claim(connection, 1, sizes=("s",))) == ["z"]


@pytest.mark.redis
def test_a_garbled_number_breaks_no_claim(farm: Farm, connection: redis.Redis) -> None:
    bad, good = farm.submit_many([SMALL, SMALL], vae="demo")
    connection.hset(keys.job(bad.id), mapping={"pixels": "nan", "attempts": "inf"})

    assert [one.claim.job_id for one in claim(connection, 5)] == [bad.id, good.id]
