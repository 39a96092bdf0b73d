"""Plain RQ beside the farm: jobs that it enqueues, jobs that wait for ours, and what of RQ's we refuse."""

import json
import subprocess
import sys

import pytest
import redis
import torch
from rq import Queue, SimpleWorker
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from tests.conftest import RedisServer, Serve, eventually

from vaefarm_producer import Farm, JobFailed
from vaefarm_shared import rq_bridge, webhooks
from vaefarm_shared.events import read_events
from vaefarm_shared.reaper import Reaper

LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def plain_queue(connection: redis.Redis) -> Queue:
    return Queue("vaefarm.demo", connection=connection, serializer=JSONSerializer)


@pytest.mark.redis
def test_a_plain_enqueue_of_our_job_kind_is_decoded_as_if_it_were_submitted(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    argument = farm.put_latent(LATENTS, vae="demo", priority="high", producer="crew", metadata={"prompt": "a cat"})
    rq_job = plain_queue(connection).enqueue(rq_bridge.JOB_FUNCTION, argument, job_id=argument["id"])
    other = farm.submit(LATENTS, vae="demo", metadata={"prompt": "a cat"})

    serve()

    job = farm.job(rq_job.id)
    assert (job.status(), job.record().queue) == ("finished", "vaefarm.demo.high.s.crew")
    assert job.record().metadata == {"prompt": "a cat"}
    assert job.result().data == other.result().data
    rq_job.refresh()
    assert (rq_job.get_status(), rq_job.return_value()) == ("finished", {"status": "finished", "images": 1})
    assert connection.hget("vaefarm:budget", "jobs") == b"0"
    assert not connection.exists("vaefarm:leases")


@pytest.mark.redis
def test_a_plain_job_is_the_admins_whatever_it_says_and_its_webhook_is_told(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    argument = farm.put_latent(LATENTS, vae="demo", webhook="https://example.com/told") | {"owner": "ann"}
    rq_job = plain_queue(connection).enqueue(rq_bridge.JOB_FUNCTION, argument)
    serve()

    told = read_events(connection)
    assert [(one.job_id, one.status, one.owner) for one in told] == [
        (rq_job.id, status, "admin") for status in ("queued", "started", "finished")
    ]
    assert farm.job(rq_job.id).record().owner == "admin"
    (delivery,) = webhooks.claim_due(connection, 10, 60.0)
    assert (delivery.job_id, delivery.owner, delivery.status) == (rq_job.id, "admin", "finished")
    assert not connection.exists("vaefarm:inflight")


@pytest.mark.redis
def test_a_plain_job_whose_id_rq_drew_is_decoded_under_that_id(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    argument = farm.put_latent(LATENTS, vae="demo")
    rq_job = plain_queue(connection).enqueue(rq_bridge.JOB_FUNCTION, argument)

    serve()

    assert farm.job(rq_job.id).image(timeout=5).size == (64, 64)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vae": "unknown"}, "VAE 'unknown'"),
        ({"shape": [1, 4, 8]}, "rank 3"),
        ({"latent": "redis:latent:nobody.x"}, "is gone"),
        ({"latent": ""}, "names no latent"),
        ({"height": 4096}, "the job says height 4096"),
    ],
)
def test_a_plain_job_with_a_bad_spec_fails_by_name(
    farm: Farm, connection: redis.Redis, serve: Serve, change: dict[str, object], reason: str
) -> None:
    argument = farm.put_latent(LATENTS, vae="demo") | change
    rq_job = plain_queue(connection).enqueue(rq_bridge.JOB_FUNCTION, argument)

    serve()

    with pytest.raises(JobFailed, match=reason):
        farm.job(rq_job.id).result(timeout=5)


@pytest.mark.redis
def test_a_plain_rq_job_that_depends_on_a_decode_runs_after_it(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    decode = farm.submit(LATENTS, vae="demo")
    after = Queue("after", connection=connection, serializer=JSONSerializer)
    follower = after.enqueue(
        "operator.not_", 0, depends_on=RqJob.fetch(decode.id, connection=connection, serializer=JSONSerializer)
    )
    assert follower.get_status() == "deferred"
    serve()
    assert decode.status() == "finished"

    # By any reaper: should the worker die between settle and this, another does it.
    eventually("the follower is queued", lambda: Reaper(connection, 0.0, 3).look() or after.job_ids == [follower.id])

    SimpleWorker([after], connection=connection, serializer=JSONSerializer).work(burst=True)
    assert follower.get_status() == "finished"
    assert not connection.exists("vaefarm:dependents")


def test_rq_callbacks_on_our_jobs_are_refused_with_a_pointer_to_what_there_is(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    argument = farm.put_latent(LATENTS, vae="demo")
    rq_job = plain_queue(connection).enqueue(
        rq_bridge.JOB_FUNCTION, argument, on_success="operator.not_", job_id=argument["id"]
    )

    serve()

    with pytest.raises(JobFailed, match="callbacks or webhooks, which vaefarm does not run: wait for the job"):
        farm.job(rq_job.id).result(timeout=5)


@pytest.mark.slow
def test_rq_suspend_and_resume_hold_the_farm(
    farm: Farm, server: RedisServer, connection: redis.Redis, serve: Serve
) -> None:
    def rq(command: str) -> None:
        subprocess.run([sys.executable, "-m", "rq.cli", command, "--url", server.url], check=True, capture_output=True)

    job = farm.submit(LATENTS, vae="demo")
    rq("suspend")
    serve()
    assert job.status() == "queued"

    rq("resume")
    serve()
    assert job.status() == "finished"


def test_the_argument_of_a_plain_job_is_json(farm: Farm) -> None:
    argument = farm.put_latent(LATENTS, vae="demo")

    assert json.loads(json.dumps(argument)) == argument
