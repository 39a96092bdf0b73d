"""A job that nobody can hold fails with that reason; want of room alone costs no attempt."""

import pytest
import redis
import torch
from tests.claims import take
from tests.conftest import Serve, StartWorker, eventually

from vaefarm_producer import Farm, JobFailed
from vaefarm_shared import leases
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.stranded import Stranded
from vaefarm_shared.workers import publish_worker
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode

SMALL, LARGE = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 128, 128)

#: Memory of a fake device that holds a picture of 64 x 64, and not two.
ROOM_FOR_ONE = 64 * 64 * 4096


def alive(connection: redis.Redis, name: str, *sizes: str) -> None:
    connection.sadd("rq:workers", f"rq:worker:{name}")
    publish_worker(connection, name, {"vaes": {"demo": "r"}, "sizes": {"demo": sizes}})


def test_a_job_that_is_too_large_for_every_worker_fails_and_the_others_wait(
    farm: Farm, connection: redis.Redis
) -> None:
    small, large = farm.submit(SMALL, vae="demo"), farm.submit(LARGE, vae="demo")
    alive(connection, "laptop", "s")

    assert Stranded(connection, patience_seconds=0.0).look() == 1

    assert small.status() == "queued"
    with pytest.raises(JobFailed, match="no worker that lives has room for a picture of size class 'm'"):
        large.result(timeout=5)
    assert large.record().attempts == 0


def test_with_no_worker_at_all_or_before_the_patience_is_over_jobs_wait(farm: Farm, connection: redis.Redis) -> None:
    job = farm.submit(LARGE, vae="demo")
    assert Stranded(connection, patience_seconds=0.0).look() == 0
    alive(connection, "laptop", "s")
    assert Stranded(connection, patience_seconds=60.0).look() == 0

    assert job.status() == "queued"


def test_a_job_that_every_worker_handed_back_fails_and_one_that_a_new_worker_may_take_does_not(
    farm: Farm, connection: redis.Redis
) -> None:
    jobs = farm.submit_many([SMALL, SMALL], vae="demo")
    alive(connection, "a", "s")
    stranded = Stranded(connection, patience_seconds=0.0)
    leases.give_back(connection, [(one, "avoid") for one in take(connection, 1, worker="a")], "a", "no room")
    alive(connection, "b", "s")
    assert stranded.look() == 0

    connection.delete("vaefarm:worker:b")

    assert stranded.look() >= 1
    with pytest.raises(JobFailed, match="every worker that lives handed it back: no room"):
        jobs[0].result(timeout=5)


def test_only_what_every_worker_handed_back_fails_and_nothing_beside_or_behind_it(
    farm: Farm, connection: redis.Redis
) -> None:
    first, *behind = farm.submit_many([SMALL + n for n in range(6)], vae="demo")
    beside = farm.submit(SMALL, vae="demo", producer="web")
    alive(connection, "a", "s")
    leases.give_back(connection, [(one, "avoid") for one in take(connection, 1, worker="a")], "a", "no room")

    assert Stranded(connection, patience_seconds=0.0).look() == 1

    assert first.status() == "failed"
    assert {job.status().value for job in [*behind, beside]} == {"queued"}


def test_a_device_without_room_for_a_batch_decodes_it_in_parts(farm: Farm, serve: Serve) -> None:
    jobs = farm.submit_many([SMALL + n for n in range(9)], vae="demo")

    serve(FakeDecoder([Catalogue.load()["demo"]], memory_bytes=ROOM_FOR_ONE))

    assert {job.status().value for job in jobs} == {"finished"}
    assert {job.record().attempts for job in jobs} == {1}


def test_a_picture_without_room_fails_with_the_reason_where_no_other_worker_holds_it(farm: Farm, serve: Serve) -> None:
    job = farm.submit(SMALL, vae="demo")

    serve(FakeDecoder([Catalogue.load()["demo"]], memory_bytes=ROOM_FOR_ONE // 2))

    with pytest.raises(JobFailed, match="no room to decode .* and no other worker that lives has room for it"):
        job.result(timeout=5)


def test_a_picture_without_room_is_tiled_where_its_job_allows_it_and_the_record_says_so(
    farm: Farm, serve: Serve
) -> None:
    job = farm.submit(SMALL, vae="demo", tiling=True)

    serve(FakeDecoder([Catalogue.load()["demo"]], memory_bytes=ROOM_FOR_ONE // 2))

    assert job.result(timeout=5).report.switches == ("tiling",)


def test_a_picture_without_room_is_decoded_in_strips_unasked_and_the_record_says_which(
    farm: Farm, serve: Serve
) -> None:
    job = farm.submit(SMALL, vae="demo")
    bound = farm.submit(SMALL, vae="demo", reproducible=True)

    serve(FakeDecoder([Catalogue.load()["demo"]], memory_bytes=ROOM_FOR_ONE // 2 - 1, modes=tuple(MemoryMode)))

    assert job.result(timeout=5).report.switches == ("strips-third",)
    with pytest.raises(JobFailed, match="no other worker that lives has room for it"):
        bound.result(timeout=5)


@pytest.mark.slow
def test_a_picture_without_room_goes_to_a_worker_that_has_it(farm: Farm, start_worker: StartWorker) -> None:
    small = start_worker("--decoder", "fake", "--fake-memory-bytes", str(ROOM_FOR_ONE // 2))
    large = start_worker("--decoder", "fake")
    jobs = farm.submit_many([SMALL + n for n in range(20)], vae="demo")

    ended = {job.id for job in farm.as_completed(jobs, timeout=30)}

    assert len(ended) == 20
    assert {job.status().value for job in jobs} == {"finished"}
    assert {job.record().worker for job in jobs} == {large.name}
    eventually("both tell what they did", lambda: sum(one.get("finished", 0) for one in farm.workers()) == 20)  # type: ignore[misc]
    assert small.process.poll() is None
