"""What came of jobs: their records and pictures, some at a time of those that ended together."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import redis
from tests.conftest import RedisServer, Serve, redis_servers

from vaefarm_producer import (
    Farm,
    FarmError,
    FarmUnavailable,
    Job,
    JobExpired,
    JobFailed,
    JobNotFound,
    TooManyRequests,
    WaitTimeout,
    redis_transport,
)
from vaefarm_producer.completing import FEW_JOBS, completed
from vaefarm_producer.redis_transport import RedisTransport
from vaefarm_producer.transport import Fetched
from vaefarm_shared import keys, reading
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.job import JobStatus
from vaefarm_shared.records import JobRecord
from vaefarm_shared.settings import Settings
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.worker import Worker

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)


def decode(serve: Serve, image_bytes: int) -> None:
    serve(FakeDecoder([Catalogue.load()["demo"]], image_bytes=image_bytes))


def test_one_picture_of_several_that_is_gone_is_told_as_expired(
    farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    job = farm.submit(np.concatenate([LATENTS, LATENTS + 1]), vae="demo")
    decode(serve, 1000)
    connection.delete(keys.blob(job.record().stored[1].blob.removeprefix("redis:")))

    with pytest.raises(JobExpired, match="its result is past its life"):
        job.fetch()


@pytest.mark.parametrize("put", [b"x" * 2000, b"x" * 100_000], ids=["more", "much more"])
def test_a_picture_of_more_bytes_than_its_record_says_is_refused(
    farm: Farm, serve: Serve, connection: redis.Redis, put: bytes
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    decode(serve, 1000)
    connection.set(keys.blob(job.record().stored[0].blob.removeprefix("redis:")), put)

    with pytest.raises(FarmError, match="its job allows 1000"):
        job.fetch()


def test_a_job_that_is_unknown_waits_failed_or_left_a_tombstone_has_no_pictures(
    farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    with pytest.raises(JobNotFound):
        farm.job("nobody").fetch()
    job = farm.submit(LATENTS, vae="demo")
    with pytest.raises(WaitTimeout, match="it has no result yet"):
        job.fetch()
    decode(serve, 1000)
    connection.hset(keys.job(job.id), mapping={"status": "failed", "reason": "odd"})
    with pytest.raises(JobFailed, match="odd"):
        job.fetch()
    connection.hset(keys.job(job.id), "status", "finished")
    job.discard()
    with pytest.raises(JobExpired, match="discarded"):
        job.fetch()


class Counting(RedisTransport):
    """Notes what is asked: of which jobs together, and which alone."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.together: list[list[str]] = []
        self.alone: list[str] = []

    def fetch_many(self, job_ids: Sequence[str]) -> list[Fetched | None]:
        self.together.append(list(job_ids))
        return super().fetch_many(job_ids)

    def record(self, job_id: str) -> JobRecord:
        self.alone.append(job_id)
        return super().record(job_id)


@pytest.fixture
def counting(settings: Settings) -> Iterator[Counting]:
    transport = Counting(settings)
    yield transport
    transport.close()


def ended_together(counting: Counting, farm: Farm, serve: Serve, image_bytes: int = 1000) -> list[Job]:
    """Jobs that have ended, as `as_completed` gives them, in the hands of one transport."""
    ids = [job.id for job in farm.submit_many([LATENTS + n for n in range(40)], vae="demo")]
    decode(serve, image_bytes)
    return list(completed(counting, [Job(one, counting) for one in ids], 10, False))


def test_results_of_jobs_that_ended_together_are_read_sixteen_at_a_time_as_they_are_taken(
    counting: Counting, farm: Farm, serve: Serve
) -> None:
    jobs = ended_together(counting, farm, serve)
    assert counting.together == [], "nobody took one yet"

    taken = [job.result() for job in jobs]

    ids = [job.id for job in jobs]
    assert counting.together == [ids[:16], ids[16:32], ids[32:]]
    assert counting.alone == []
    assert [one.record for one in taken] == [farm.job(one).record() for one in ids]
    assert [one.data for one in taken] == [farm.job(one).fetch().data for one in ids]


def test_a_result_that_was_read_ahead_is_asked_for_anew_the_second_time(
    counting: Counting, farm: Farm, serve: Serve
) -> None:
    first, second, *_ = ended_together(counting, farm, serve)
    first.fetch()
    second.fetch()
    assert counting.alone == []
    farm.job(second.id).discard()

    with pytest.raises(JobExpired):
        second.fetch()
    assert counting.alone == [second.id]


def test_a_job_that_is_discarded_by_who_holds_it_has_no_result_though_it_was_read_ahead(
    counting: Counting, farm: Farm, serve: Serve
) -> None:
    first, second, *_ = ended_together(counting, farm, serve)
    first.fetch()
    second.discard()

    with pytest.raises(JobExpired):
        second.fetch()


def test_jobs_that_are_passed_over_are_not_read_and_may_be_asked_for_later(
    counting: Counting, farm: Farm, serve: Serve
) -> None:
    jobs = ended_together(counting, farm, serve)
    jobs[30].fetch()
    assert counting.together == [[job.id for job in jobs[30:]]]

    assert jobs[3].fetch().record.id == jobs[3].id
    assert counting.alone == [jobs[3].id]


@pytest.mark.parametrize(("image_bytes", "at_a_time"), [(3000, 3), (11_000, 1)], ids=["several", "one"])
def test_no_more_bytes_are_read_ahead_than_allowed_but_for_one_result_that_is_larger(
    counting: Counting, farm: Farm, serve: Serve, monkeypatch: pytest.MonkeyPatch, image_bytes: int, at_a_time: int
) -> None:
    monkeypatch.setattr(redis_transport, "AHEAD_BYTES", 10_000)
    jobs = ended_together(counting, farm, serve, image_bytes)

    assert {len(job.result().data[0]) for job in jobs} == {image_bytes}
    assert [asked[0] for asked in counting.together] == [job.id for job in jobs[::at_a_time]]
    assert counting.alone == []


def test_results_of_several_pictures_come_in_their_order(counting: Counting, farm: Farm, serve: Serve) -> None:
    several = [np.concatenate([LATENTS + n, LATENTS - n]) for n in range(1, FEW_JOBS + 2)]
    ids = [job.id for job in farm.submit_many(several, vae="demo")]
    decode(serve, 1000)

    taken = [job.result() for job in completed(counting, [Job(one, counting) for one in ids], 10, False)]

    assert counting.alone == []
    assert [one.data for one in taken] == [farm.job(one).fetch().data for one in ids]
    assert len({data for one in taken for data in one.data}) == 2 * len(ids)


def test_a_failed_job_among_others_raises_its_own_error_and_one_that_is_retried_is_waited_for(
    counting: Counting, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    jobs = ended_together(counting, farm, serve)
    connection.hset(keys.job(jobs[4].id), mapping={"status": "failed", "reason": "odd"})
    assert farm.job(jobs[5].id).record().status == "finished"
    connection.hset(keys.job(jobs[5].id), "status", "started")

    for place, job in enumerate(jobs):
        if place == 4:
            with pytest.raises(JobFailed, match="odd"):
                job.result()
        elif place == 5:
            with pytest.raises(WaitTimeout, match="has not ended within"):
                job.result(timeout=0.1)
        else:
            assert job.result().record.id == job.id
    assert counting.alone == [jobs[4].id, jobs[5].id]


def test_pictures_among_others_that_are_gone_or_not_of_their_size_raise_their_own_errors(
    counting: Counting, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    jobs = ended_together(counting, farm, serve)
    gone, larger, odd = (
        keys.blob(farm.job(job.id).record().stored[0].blob.removeprefix("redis:")) for job in jobs[2:5]
    )
    connection.delete(gone, odd)
    connection.append(larger, b"x")
    connection.hset(odd, "no", "picture")

    for place, job in enumerate(jobs):
        if 2 <= place <= 4:
            with pytest.raises((JobExpired, FarmError, redis.ResponseError)) as told:
                job.fetch()
            assert ("past its life", "its job allows 1000", "WRONGTYPE")[place - 2] in str(told.value)
        else:
            assert len(job.fetch().data[0]) == 1000
    assert counting.alone == [job.id for job in jobs[2:5]]


def test_what_redis_does_not_answer_loses_no_result(
    counting: Counting, farm: Farm, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = ended_together(counting, farm, serve)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_records", away)
        with pytest.raises(FarmUnavailable):
            jobs[0].fetch()

    assert [job.fetch().record.id for job in jobs] == [job.id for job in jobs]
    assert counting.alone == []


def away(*_: object) -> list[None]:
    raise redis.ConnectionError("away")


@pytest.mark.parametrize("count", [FEW_JOBS, FEW_JOBS + 1], ids=["few", "many"])
def test_of_many_jobs_those_that_have_ended_are_given_without_a_wait_for_them(
    farm: Farm, serve: Serve, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []
    ended_of = Job.ended

    def noted(job: Job) -> "Future[JobStatus]":
        waited.append(job.id)
        return ended_of(job)

    monkeypatch.setattr(Job, "ended", noted)
    ended = farm.submit_many([LATENTS + n for n in range(count - 2)], vae="demo")
    decode(serve, 1000)
    waiting = farm.submit_many([LATENTS, LATENTS + 1], vae="demo")
    order = farm.as_completed([waiting[0], *ended, waiting[1]], timeout=30)

    first = [next(order) for _ in ended]
    decode(serve, 1000)

    assert first == ended
    assert list(order) == waiting
    assert waited == [job.id for job in (waiting if count > FEW_JOBS else [waiting[0], *ended, waiting[1]])]


@pytest.mark.parametrize("error", [FarmUnavailable("away"), TooManyRequests("too often")])
def test_an_unknown_job_among_many_is_told_and_a_farm_that_answers_not_now_is_waited_for(
    farm: Farm, serve: Serve, monkeypatch: pytest.MonkeyPatch, error: FarmError
) -> None:
    jobs = farm.submit_many([LATENTS + n for n in range(FEW_JOBS + 1)], vae="demo")
    decode(serve, 1000)

    def refused(_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(farm._transport, "statuses", refused)
        assert set(farm.as_completed(jobs, timeout=30)) == set(jobs)

    with pytest.raises(JobNotFound):
        list(farm.as_completed([*jobs, farm.job("nobody")], timeout=30))


def test_what_was_read_and_not_taken_is_not_held_once_others_are_read(
    counting: Counting, farm: Farm, serve: Serve
) -> None:
    jobs = ended_together(counting, farm, serve)
    jobs[0].fetch()
    jobs[20].fetch()

    assert jobs[1].fetch().record.id == jobs[1].id
    assert counting.alone == [jobs[1].id]


def test_a_result_waits_for_a_redis_that_is_away_when_it_is_taken(settings: Settings, tmp_path: Path) -> None:
    server = RedisServer(next(iter(redis_servers().values())), tmp_path, ("--appendonly", "yes"))
    server.start()
    own = settings.at(server.url)
    worker = Worker(own, FakeDecoder([Catalogue.load()["demo"]], image_bytes=1000), "here")
    back = threading.Timer(1.0, server.start)
    try:
        with Farm(settings=own) as farm:
            submitted = farm.submit_many([LATENTS, LATENTS + 1], vae="demo")
            worker.run(burst=True)
            jobs = list(farm.as_completed(submitted, timeout=30))
            server.stop()
            back.start()
            assert [job.result(timeout=30).record.id for job in jobs] == [job.id for job in jobs]
    finally:
        back.join()
        server.stop()


def test_a_forked_process_takes_results_while_another_thread_of_its_parent_did(
    counting: Counting, farm: Farm, serve: Serve
) -> None:
    first, second, *_ = ended_together(counting, farm, serve)
    assert first._ahead is not None
    with first._ahead._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if second.fetch().record.id == second.id else 1)
        assert os.waitpid(child, 0)[1] == 0
