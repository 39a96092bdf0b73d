"""What an outsider writes into Redis is refused, fails by name, and is never unpickled; the worker goes on."""

import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import torch
from rq import Queue
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from tests.conftest import Serve

from vaefarm_producer import Farm, JobFailed
from vaefarm_shared import rq_bridge
from vaefarm_shared.job import JOB_VERSION
from vaefarm_shared.stranded import Stranded
from vaefarm_shared.workers import publish_worker

LATENTS = torch.zeros(1, 4, 8, 8)
PLAIN_QUEUE = "vaefarm.demo"


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (Path.touch, (self.path,))  # type: ignore[return-value]


@pytest.fixture
def crater(tmp_path: Path) -> Path:
    return tmp_path / "crater"


def other_function(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    data = zlib.compress(JSONSerializer.dumps(("pathlib.Path.touch", None, [str(crater)], {})))
    connection.hset(rq_bridge.job_key(job.id), "data", data)
    return job.id


def other_arguments(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    data = zlib.compress(JSONSerializer.dumps((rq_bridge.JOB_FUNCTION, None, ["another-job"], {})))
    connection.hset(rq_bridge.job_key(job.id), "data", data)
    return job.id


def pickled_data(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(rq_bridge.job_key(job.id), "data", zlib.compress(pickle.dumps(Bomb(crater))))
    return job.id


def pickled_data_uncompressed(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(rq_bridge.job_key(job.id), "data", pickle.dumps(Bomb(crater)))
    return job.id


def pickled_meta(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(rq_bridge.job_key(job.id), "meta", pickle.dumps(Bomb(crater)))
    return job.id


def zip_bomb(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(rq_bridge.job_key(job.id), "data", zlib.compress(bytes(2_000_000)))
    return job.id


def huge_data(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(rq_bridge.job_key(job.id), "data", bytes(1_000_000))
    return job.id


def callback(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(rq_bridge.job_key(job.id), "success_callback_name", "os.system")
    return job.id


def foreign_job_of_another_function(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    queue = Queue(PLAIN_QUEUE, connection=connection, serializer=JSONSerializer)
    return queue.enqueue("pathlib.Path.touch", str(crater)).id


def foreign_pickled_job(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    return Queue(PLAIN_QUEUE, connection=connection).enqueue("operator.not_", Bomb(crater)).id


def id_without_any_hash(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    connection.rpush(rq_bridge.queue_key(PLAIN_QUEUE), "ghost")
    return "ghost"


def no_spec(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(f"vaefarm:job:{job.id}", "spec", pickle.dumps(Bomb(crater)))
    return job.id


def other_latent(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.set(next(iter(connection.scan_iter("vaefarm:latent:*"))), pickle.dumps(Bomb(crater)))
    return job.id


def huge_latent(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.set(next(iter(connection.scan_iter("vaefarm:latent:*"))), bytes(10_000_000))
    return job.id


def vanished_latent(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.delete(*connection.scan_iter("vaefarm:latent:*"))
    return job.id


def blob_reference_that_leads_elsewhere(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(f"vaefarm:job:{job.id}", "latent", "file:../../../../etc/passwd")
    return job.id


def key_of_another_kind(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(f"vaefarm:job:{job.id}", "latent", "redis:leases")
    return job.id


def picture_of_another_job(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(f"vaefarm:job:{job.id}", "latent", "redis:image:other.token.0")
    return job.id


def no_latent_field(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hdel(f"vaefarm:job:{job.id}", "latent")
    return job.id


def time_that_is_none(farm: Farm, connection: redis.Redis, crater: Path) -> str:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(f"vaefarm:job:{job.id}", "queued_at", "yesterday")
    return job.id


ATTACKS = [
    (other_function, "names 'pathlib.Path.touch'; only vaefarm_worker.tasks.decode"),
    (other_arguments, "only vaefarm_worker.tasks.decode without arguments"),
    (pickled_data, "is not JSON; vaefarm never unpickles"),
    (pickled_data_uncompressed, "is not JSON; vaefarm never unpickles"),
    (pickled_meta, "carries RQ meta"),
    (zip_bomb, "is not JSON"),
    (huge_data, "has 1000000 bytes"),
    (callback, "callbacks"),
    (foreign_job_of_another_function, "names 'pathlib.Path.touch'"),
    (foreign_pickled_job, "is not JSON"),
    (id_without_any_hash, "RQ data has 0 bytes"),
    (no_spec, "no JSON object with a version"),
    (other_latent, "no safetensors file|no complete"),
    (huge_latent, "more than the 5120 bytes"),
    (vanished_latent, "is gone"),
    (blob_reference_that_leads_elsewhere, "names 'file:../../../../etc/passwd' as its latent"),
    (key_of_another_kind, "names 'redis:leases' as its latent"),
    (picture_of_another_job, "names 'redis:image:other.token.0' as its latent"),
    (no_latent_field, "its record names no latent"),
    (time_that_is_none, "no time at which it was queued"),
]


@pytest.mark.redis
@pytest.mark.parametrize(("attack", "reason"), ATTACKS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_job_that_no_producer_wrote_fails_by_name_and_the_next_one_is_decoded(
    farm: Farm,
    connection: redis.Redis,
    serve: Serve,
    crater: Path,
    attack: Callable[[Farm, redis.Redis, Path], str],
    reason: str,
) -> None:
    job_id = attack(farm, connection, crater)
    good = farm.submit(LATENTS + 1, vae="demo")

    serve()

    assert good.status() == "finished"
    with pytest.raises(JobFailed, match=reason):
        farm.job(job_id).result(timeout=5)
    assert not crater.exists(), "nothing was unpickled or run"
    assert connection.hget(rq_bridge.job_key(job_id), "status") == b"failed"
    assert not connection.zrange("vaefarm:leases", 0, -1)
    # Whoever opens the failed job with RQ's own tools finds no pickle either.
    failed = RqJob.fetch(job_id, connection=connection, serializer=JSONSerializer)
    assert (failed.func_name, failed.args, failed.meta) == (rq_bridge.JOB_FUNCTION, [], {})


@pytest.mark.redis
def test_a_job_of_a_newer_version_waits_for_a_worker_that_reads_it_and_fails_by_name_when_none_comes(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    """Producers are upgraded before their workers, or after them: a job is not lost for that."""
    job = farm.submit(LATENTS, vae="demo")
    record = f"vaefarm:job:{job.id}"
    spec = connection.hget(record, "spec")
    connection.hset(record, "spec", json.dumps({"version": JOB_VERSION + 1}))
    serve(name="old")
    assert (job.status(), job.record().attempts) == ("queued", 0)
    assert f"version {JOB_VERSION + 1}; this worker reads versions up to {JOB_VERSION}" in str(job.record().last_error)

    connection.sadd("rq:workers", "rq:worker:old")
    publish_worker(connection, "old", {"vaes": {"demo": "r"}, "sizes": {"demo": ["s"]}})
    assert Stranded(connection, patience_seconds=0.0).look() == 1
    with pytest.raises(JobFailed, match="every worker that lives handed it back: .* run the same vaefarm release"):
        job.result(timeout=5)

    assert spec is not None
    connection.hset(record, "spec", spec)
    assert job.retry()
    serve(name="new")
    assert job.status() == "finished"


@pytest.mark.redis
def test_a_record_of_another_type_is_dropped_and_the_worker_goes_on(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    bad, good = farm.submit(LATENTS, vae="demo"), farm.submit(LATENTS + 1, vae="demo")
    connection.delete(f"vaefarm:job:{bad.id}")
    connection.set(f"vaefarm:job:{bad.id}", "no hash")

    serve()

    assert good.status() == "finished"


def test_attempts_that_are_no_number_count_as_none(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo")
    connection.hset(f"vaefarm:job:{job.id}", "attempts", "many")

    serve()

    assert (job.status(), job.record().attempts) == ("finished", 1)


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"a/b", b"x" * 200, b"../../x"])
def test_a_list_entry_that_is_no_id_is_dropped(farm: Farm, connection: redis.Redis, serve: Serve, junk: bytes) -> None:
    connection.rpush(rq_bridge.queue_key(PLAIN_QUEUE), junk)
    good = farm.submit(LATENTS, vae="demo")

    serve()

    assert good.status() == "finished"
    assert connection.llen(rq_bridge.queue_key(PLAIN_QUEUE)) == 0


def test_an_id_that_stands_in_the_list_twice_is_decoded_once(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo")
    connection.rpush("rq:queue:vaefarm.demo.normal.s.default", job.id)

    serve()

    assert (job.status(), job.record().attempts) == ("finished", 1)


def test_a_suspended_farm_claims_nothing(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    from rq.suspension import resume, suspend

    job = farm.submit(LATENTS, vae="demo")
    suspend(connection)
    serve()
    assert job.status() == "queued"

    resume(connection)
    serve()
    assert job.status() == "finished"
