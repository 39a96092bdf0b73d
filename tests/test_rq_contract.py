"""A job of ours is an RQ job: what a stock worker and ours leave behind is the same."""

import subprocess
import sys

import pytest
import redis
import torch
from rq import Queue, Retry, SimpleWorker
from rq import Worker as RqWorker
from rq.job import Job as RqJob
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import as_text
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY
from tests.claims import begin, take
from tests.conftest import Serve, StartWorker, eventually

from vaefarm_producer import Farm
from vaefarm_shared import keys, leases, rq_bridge, transitions
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.job import JobStatus
from vaefarm_shared.transitions import Outcome
from vaefarm_shared.workers import forget_dead, read_workers
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.registration import Registration

QUEUE = "vaefarm.demo.normal.s.default"
LATENTS = torch.zeros(1, 4, 8, 8)


def shape_of(connection: redis.Redis, job_id: str, queue: str) -> dict[str, object]:
    """RQ's keys of a finished job: names, types, whether they have a life, and the fields of its hash."""
    found: dict[str, object] = {}
    for key in connection.scan_iter("rq:*"):
        name = as_text(key).replace(job_id, "ID").replace(queue, "Q")
        if "worker" in name or name.startswith("rq:clean_"):
            continue
        found[name] = (as_text(connection.type(key)), connection.ttl(key) > 0)
    found["fields"] = {as_text(field) for field in connection.hkeys(rq_bridge.job_key(job_id))}
    return found


def test_a_finished_job_leaves_what_a_stock_worker_leaves(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo")
    serve()
    ours = shape_of(connection, job.id, QUEUE)
    connection.flushall()

    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    stock = queue.enqueue("operator.not_", 0, result_ttl=60, failure_ttl=60, retry=Retry(max=3), description="x")
    SimpleWorker([queue], connection=connection, serializer=JSONSerializer).work(burst=True)
    assert stock.get_status() == "finished"

    assert ours == shape_of(connection, stock.id, QUEUE)


def test_rq_itself_reads_a_job_of_ours_at_every_stage(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    def seen() -> tuple[str, list[str], int, int]:
        rq_job = RqJob.fetch(job.id, connection=connection, serializer=JSONSerializer)
        registries = (StartedJobRegistry, FinishedJobRegistry, FailedJobRegistry)
        held = [len(registry(QUEUE, connection, serializer=JSONSerializer)) for registry in registries]
        queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
        return rq_job.get_status().value, queue.job_ids, held[0], held[1]

    job = farm.submit(LATENTS, vae="demo")
    assert seen() == ("queued", [job.id], 0, 0)

    [claim] = take(connection)
    begin(connection, claim)
    assert seen() == ("started", [], 1, 0)
    leases.give_back(connection, [(claim, "free")], "by-hand")
    assert seen() == ("queued", [job.id], 0, 0)

    serve()
    assert seen() == ("finished", [], 0, 1)
    rq_job = RqJob.fetch(job.id, connection=connection, serializer=JSONSerializer)
    assert rq_job.return_value() == {"status": "finished", "images": 1}


@pytest.mark.slow
def test_rq_sees_our_worker_and_its_info_fails_no_job_in_hand(
    farm: Farm, connection: redis.Redis, start_worker: StartWorker
) -> None:
    worker = start_worker("--decoder", "fake")
    job = farm.submit(LATENTS, vae="sdxl")
    [claim] = take(connection, vae="sdxl")
    begin(connection, claim)
    url = f"redis://127.0.0.1:{connection.connection_pool.connection_kwargs['port']}/0"

    command = [sys.executable, "-m", "rq.cli", "info", "--url", url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert f"{job.record().queue} | 0, 1 executing" in shown
    assert [one.name for one in RqWorker.all(connection=connection)] == [worker.name]
    assert job.status() == "started"
    transitions.settle(connection, [Outcome(claim, JobStatus.FAILED, "by-hand", "done")])
    assert job.record().attempts == 1


def test_a_worker_that_died_is_taken_off_rqs_lists_and_none_that_lives(
    farm: Farm, connection: redis.Redis, start_worker: StartWorker
) -> None:
    farm.submit(LATENTS, vae="demo")
    lists = [REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY % "vaefarm.demo"]
    dead = start_worker("--decoder", "fake")
    dead.process.kill()
    eventually("it is buried", lambda: not connection.exists(f"rq:worker:{dead.name}"))
    # None of ours is there to tidy, and RQ's own does not.
    assert [connection.smembers(one) for one in lists] == [{f"rq:worker:{dead.name}".encode()}] * 2

    assert forget_dead(connection) == 1

    assert not connection.exists(*lists)
    living = start_worker("--decoder", "fake")
    assert forget_dead(connection) == 0
    assert [connection.smembers(one) for one in lists] == [{f"rq:worker:{living.name}".encode()}] * 2


def test_a_worker_that_was_taken_for_dead_is_listed_again_once_it_speaks(connection: redis.Redis) -> None:
    """It was stopped, say, or the network between: its entries ended, and somebody tidied meanwhile."""
    registration = Registration(connection, "sleeper", FakeDecoder([Catalogue.load()["demo"]]))
    registration.birth()
    entries = ("rq:worker:sleeper", keys.worker("sleeper"))
    lists = [REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY % "vaefarm.demo"]
    connection.sadd("rq:queues", "rq:queue:vaefarm.demo")
    for entry in entries:
        connection.delete(entry)
        assert forget_dead(connection) == (entry == entries[-1]), "what either tells is that it lives"
    assert not any(connection.exists(one) for one in lists)

    registration.heartbeat()

    assert [connection.smembers(one) for one in lists] == [{b"rq:worker:sleeper"}] * 2
    assert [one["name"] for one in read_workers(connection)] == ["sleeper"]
