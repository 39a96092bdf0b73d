"""Previews on a real Redis: which come, in which order, what becomes of them, and that nothing of them is left."""

import signal
import threading
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis
from tests.conftest import Serve, StartWorker, eventually

from vaefarm_producer import (
    Farm,
    FarmError,
    InvalidInput,
    InvalidJobId,
    InvalidOption,
    JobConflict,
    JobStatus,
    QueueFull,
    UnknownVae,
)
from vaefarm_producer.previews import prepare_step, prepare_with_preview
from vaefarm_producer.redis_transport import RedisTransport
from vaefarm_shared import keys, leases, transitions
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.leases import Source, Wanted
from vaefarm_shared.previews import preview_id, read_preview
from vaefarm_shared.reaper import Reaper
from vaefarm_shared.settings import Settings
from vaefarm_shared.transitions import Outcome
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode

pytestmark = pytest.mark.redis

#: What `PREVIEW` takes as well, and what it does not.
LATENTS = np.zeros((1, 4, 8, 8), np.float32)
VAE, PREVIEW, QUEUE = "sd-v1", "taesd", "vaefarm.taesd.normal.s.default"


class Recorder(FakeDecoder):
    """A decoder that writes down what it decodes."""

    def __init__(self, settings: Settings, *vaes: str, broken: str = "") -> None:
        catalogue = Catalogue.load(settings.catalogue)
        super().__init__([catalogue[vae] for vae in vaes])
        self.decoded: list[str] = []
        self._broken = broken

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        if batch.items[0].spec.vae == self._broken:
            raise RuntimeError("the kernel did not like it")
        self.decoded += [item.spec.id for item in batch.items]
        return super().decode(batch, mode=mode)


def claim(connection: redis.Redis, vae: str = PREVIEW) -> leases.Claim:
    """Have a worker hold the next job of a VAE."""
    (one,) = leases.claim(connection, "somebody", Wanted([Source(vae, "normal", 0.0, ("s",))], 1, 10**9, 600.0))
    return one.claim


def step(farm: Farm, job_id: str, value: float) -> str:
    """Put the preview of a step's latents; what became of it."""
    contract = farm.contract(PREVIEW)
    put: str = farm._transport.put_preview(prepare_step(np.full_like(LATENTS, value), PREVIEW, contract, job_id))
    return put


def left_of(connection: redis.Redis, job_id: str) -> list[str]:
    """The keys, and entries of keys, that name a job's preview."""
    wanted = preview_id(job_id).encode()
    read: dict[bytes, Any] = {
        b"list": lambda key: connection.lrange(key, 0, -1),
        b"zset": lambda key: connection.zrange(key, 0, -1),
        b"set": connection.smembers,
    }
    found = []
    for key in connection.scan_iter():
        kind: Any = connection.type(key)
        members = read[kind](key) if kind in read else ()
        if wanted in key or any(wanted in member for member in members):
            found.append(key.decode())
    return found


def held(connection: redis.Redis) -> tuple[int, int]:
    """Bytes and jobs in the budget."""
    found: Any = connection.hmget(keys.BUDGET, "bytes", "jobs")
    return int(found[0] or 0), int(found[1] or 0)


@pytest.mark.parametrize("vaes", [(VAE, PREVIEW), (PREVIEW, VAE)], ids=["its-own-first", "the-preview-first"])
def test_a_worker_that_has_both_decodes_the_preview_first(
    vaes: tuple[str, str], farm: Farm, serve: Serve, settings: Settings
) -> None:
    job = farm.submit(LATENTS, vae=VAE, preview=PREVIEW)
    # Whose turn it is at the claim goes by the order of the worker's VAEs.
    decoder = Recorder(settings, *vaes)

    serve(decoder)

    assert decoder.decoded == [preview_id(job.id), job.id]


def test_a_preview_is_there_while_its_job_waits_and_goes_with_it(
    farm: Farm, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    job = farm.submit(LATENTS, vae=VAE, preview=PREVIEW)
    assert job.preview() is None

    serve(Recorder(settings, PREVIEW))

    image = job.preview(timeout=10)
    assert image is not None
    assert (image.size, image.format) == ((64, 64), "JPEG")
    assert job.status() is JobStatus.QUEUED
    assert left_of(connection, job.id)

    serve(Recorder(settings, VAE))

    assert job.image(timeout=10).size == (64, 64)
    assert job.preview(timeout=60) is None
    assert left_of(connection, job.id) == []
    job.discard()
    assert held(connection) == (0, 0)


@pytest.mark.parametrize("state", ["waits", "held", "made"])
@pytest.mark.parametrize("end", ["finished", "failed", "expired", "canceled", "discarded", "canceled in bulk"])
def test_it_goes_whatever_becomes_of_its_job(
    end: str, state: str, farm: Farm, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    job = farm.submit(LATENTS, vae=VAE, preview=PREVIEW, failure_seconds=1)
    if state == "made":
        serve(Recorder(settings, PREVIEW))
        assert job.preview() is not None
    preview = claim(connection) if state == "held" else None
    if end in ("finished", "failed", "expired"):
        outcome = Outcome(claim(connection, VAE), JobStatus(end), "somebody", "it is told")
        assert transitions.settle(connection, [outcome]) == [True]
    elif end == "canceled":
        assert job.cancel()
    elif end == "discarded":
        job.discard()
    else:
        assert farm.cancel_many([job]) == [JobStatus.CANCELED]

    assert left_of(connection, job.id) == []
    assert held(connection)[1] == 0
    if preview is not None:
        # A worker that holds it finds it gone, and its picture goes in the same step.
        name = f"image:{preview.job_id}.{preview.token}.0"
        made = Outcome(preview, JobStatus.FINISHED, "somebody", files=[(keys.blob(name), b"picture", 600)])
        assert transitions.settle(connection, [made]) == [False]
        assert transitions.begin(connection, [(preview, None)], "somebody", shared=False) == [transitions.LOST]
    job.discard()
    assert held(connection) == (0, 0)


def test_of_ten_steps_the_newest_waits_where_the_first_stood(farm: Farm, connection: redis.Redis) -> None:
    step(farm, "before", 0)
    assert [step(farm, "order-17", value) for value in range(10)] == ["queued"] * 10
    step(farm, "behind", 0)

    waiting = [raw.decode() for raw in connection.lrange(f"rq:queue:{QUEUE}", 0, -1)]  # type: ignore[union-attr]
    assert waiting == ["before--preview", "order-17--preview", "behind--preview"]
    latents = list(connection.scan_iter(match="vaefarm:latent:order-17*"))
    newest = prepare_step(LATENTS + 9, PREVIEW, farm.contract(PREVIEW), "order-17")
    assert [connection.get(key) for key in latents] == [newest.packed]
    assert held(connection)[1] == 3


def test_a_step_that_was_sent_before_changes_nothing(farm: Farm, connection: redis.Redis) -> None:
    step(farm, "a", 1)
    before = connection.hgetall(keys.job("a--preview"))

    assert step(farm, "a", 1) == "same"

    assert connection.hgetall(keys.job("a--preview")) == before
    assert connection.llen(f"rq:queue:{QUEUE}") == 1


def test_one_that_a_worker_has_is_left_to_it_and_shown_until_a_newer_one_is_there(
    farm: Farm, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    step(farm, "a", 1)
    assert farm.job("a").preview() is None
    held_one = claim(connection)
    assert step(farm, "a", 2) == "busy"
    assert leases.give_back(connection, [(held_one, "free")], "somebody") == [True]
    serve(Recorder(settings, PREVIEW))
    first = farm.job("a").preview()
    assert first is not None

    assert step(farm, "a", 3) == "queued"
    assert farm.job("a").preview() == first
    second = claim(connection)
    assert farm.job("a").preview() == first
    leases.give_back(connection, [(second, "free")], "somebody")
    serve(Recorder(settings, PREVIEW))

    assert read_preview(connection, "a").report != first
    assert farm.job("a").preview() is not None
    assert len(list(connection.scan_iter(match="vaefarm:image:*"))) == 1
    assert farm._transport.drop_preview("a")
    assert (left_of(connection, "a"), held(connection)) == ([], (0, 0))


def test_a_newer_one_of_which_nothing_comes_leaves_what_was_shown(
    farm: Farm, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    step(farm, "a", 1)
    serve(Recorder(settings, PREVIEW))
    first, bytes_held = farm.job("a").preview(), held(connection)
    assert first is not None
    step(farm, "a", 2)
    serve(Recorder(settings, PREVIEW, broken=PREVIEW))

    assert farm.job("a").preview() == first
    assert held(connection) == bytes_held
    # Whether its job ever comes or not.
    assert [key for key in connection.scan_iter(match="*a--preview*") if connection.ttl(key) < 0] == []
    assert step(farm, "a", 3) == "queued"


@pytest.mark.parametrize("is_shown", [False, True])
def test_the_preview_of_a_job_comes_also_where_a_worker_has_one_of_its_steps(
    is_shown: bool, farm: Farm, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    if is_shown:
        step(farm, "a", 0)
        serve(Recorder(settings, PREVIEW))
    shown = farm.job("a").preview()
    step(farm, "a", 1)
    earlier = claim(connection)

    job = farm.submit(LATENTS + 2, vae=VAE, preview=PREVIEW, job_id="a")

    assert connection.lrange(f"rq:queue:{QUEUE}", 0, -1) == [b"a--preview"]
    assert job.preview() == shown
    late = Outcome(earlier, JobStatus.FAILED, "somebody", "it is told")
    assert transitions.settle(connection, [late]) == [False]
    serve(Recorder(settings, PREVIEW))
    assert job.preview() not in (None, shown)
    job.discard()
    assert (left_of(connection, "a"), held(connection)) == ([], (0, 0))


def test_the_preview_of_a_job_takes_the_place_of_its_steps(farm: Farm, connection: redis.Redis) -> None:
    step(farm, "a", 1)

    farm.submit(LATENTS, vae=VAE, preview=PREVIEW, job_id="a")

    assert connection.lrange(f"rq:queue:{QUEUE}", 0, -1) == [b"a--preview"]
    assert len(list(connection.scan_iter(match="vaefarm:latent:a--preview*"))) == 1
    assert step(farm, "a", 2) == "queued"
    farm.job("a").discard()
    assert (left_of(connection, "a"), held(connection)) == ([], (0, 0))


@pytest.mark.parametrize("is_held", [False, True])
def test_a_step_of_the_job_is_none_of_what_its_owner_may_have_besides(
    is_held: bool, settings: Settings, connection: redis.Redis
) -> None:
    with closing(RedisTransport(settings)) as transport:
        named = {"owner": "somebody"}
        job = prepare_with_preview(LATENTS, VAE, transport.contract, "a", {"preview": PREVIEW})
        earlier = prepare_step(LATENTS + 1, PREVIEW, transport.contract(PREVIEW), "a")
        of_step = replace(earlier, spec=earlier.spec.model_copy(update=named))
        assert job.preview is not None
        preview = replace(job.preview, spec=job.preview.spec.model_copy(update=named))
        job = replace(job, spec=job.spec.model_copy(update=named), preview=preview)
        assert transport.put_preview_within(of_step, 2) == "queued"
        if is_held:
            claim(connection)

        assert transport.submit_within([job], 2) == [JobStatus.QUEUED]

    assert connection.hget(keys.INFLIGHT, "somebody") == b"2"


def test_an_ended_job_takes_no_steps(farm: Farm, connection: redis.Redis) -> None:
    farm.submit(LATENTS, vae=VAE, job_id="a").cancel()

    assert step(farm, "a", 1) == "ended"
    assert left_of(connection, "a") == []


def test_a_failed_decode_of_it_is_tried_once_and_no_failure_of_the_job(
    farm: Farm, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    job = farm.submit(LATENTS, vae=VAE, preview=PREVIEW)

    serve(Recorder(settings, PREVIEW, broken=PREVIEW))

    assert left_of(connection, job.id) == []
    assert list(farm.failed()) == []
    assert job.status() is JobStatus.QUEUED
    serve(Recorder(settings, VAE))
    assert job.image(timeout=10).size == (64, 64)
    job.discard()
    assert held(connection) == (0, 0)


def test_that_no_worker_serves_its_vae_holds_nothing_up(
    farm: Farm, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    jobs = farm.submit_many([LATENTS, LATENTS + 1], vae=VAE, preview=PREVIEW)
    serve(Recorder(settings, VAE))

    assert [job.image(timeout=10).size for job in farm.as_completed(jobs, discard=True)] == [(64, 64)] * 2
    assert connection.llen(f"rq:queue:{QUEUE}") == 0
    assert held(connection) == (0, 0)


def test_a_map_has_previews_that_leave_nothing(
    farm: Farm, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    results = farm.map([LATENTS, LATENTS + 1], vae=VAE, preview=PREVIEW, timeout=30)

    def work() -> None:
        eventually("they wait", lambda: held(connection)[1] == 4)
        serve(Recorder(settings, VAE))

    worker = threading.Thread(target=work)
    worker.start()

    assert [result.images[0].size for result in results] == [(64, 64)] * 2

    worker.join()
    assert held(connection) == (0, 0)
    assert not list(connection.scan_iter(match="*--preview*"))


@pytest.mark.slow
def test_a_worker_that_is_killed_with_one_in_hand_costs_the_job_nothing(
    farm: Farm, start_worker: StartWorker, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    worker = start_worker("--decoder", "fake", "--fake-seconds", "600", vaes=PREVIEW)
    job = farm.submit(LATENTS, vae=VAE, preview=PREVIEW)
    eventually("it is begun", lambda: connection.hget(keys.job(preview_id(job.id)), "status") == b"started")

    worker.process.send_signal(signal.SIGKILL)

    eventually("it is given up", lambda: left_of(connection, job.id) == [] or Reaper(connection, 2.0, 3).look())
    assert left_of(connection, job.id) == []
    assert list(farm.failed()) == []
    serve(Recorder(settings, VAE, PREVIEW))
    assert job.image(timeout=10).size == (64, 64)
    assert job.record().attempts == 1


def test_one_whose_lease_ended_is_given_up(farm: Farm, connection: redis.Redis) -> None:
    job = farm.submit(LATENTS, vae=VAE, preview=PREVIEW)
    claim(connection)
    connection.zadd(keys.LEASES, {preview_id(job.id): 0})

    assert leases.reap(connection, 3) == []

    assert left_of(connection, job.id) == []
    assert job.status() is JobStatus.QUEUED


@pytest.mark.parametrize(("how", "stays"), [("free", True), ("avoid", True), ("alone", False), ("attempt", False)])
def test_one_that_is_handed_back_is_tried_again_unless_its_attempt_failed(
    how: Any, stays: bool, farm: Farm, connection: redis.Redis
) -> None:
    job = farm.submit(LATENTS, vae=VAE, preview=PREVIEW)

    assert leases.give_back(connection, [(claim(connection), how)], "somebody", "why", 3) == [True]

    assert bool(connection.llen(f"rq:queue:{QUEUE}")) is stays
    assert bool(left_of(connection, job.id)) is stays


def test_one_that_was_not_made_within_its_life_is_dropped(farm: Farm, connection: redis.Redis) -> None:
    step(farm, "a", 1)
    connection.zadd(keys.PREVIEWS, {"a--preview": 0})

    Reaper(connection, 2.0, 3).look()

    assert (left_of(connection, "a"), held(connection)) == ([], (0, 0))


def test_a_step_that_was_made_lives_as_long_as_it_says(farm: Farm, serve: Serve, settings: Settings) -> None:
    step(farm, "a", 1)
    serve(Recorder(settings, PREVIEW))

    with RedisTransport(settings)._connection as connection:
        ends: Any = [connection.ttl(key) for key in connection.scan_iter(match="*a--preview*")]
        assert len(ends) >= 3
        assert all(0 < seconds <= 3600 for seconds in ends)
        assert connection.zcard(keys.PREVIEWS) == 0


def test_one_whose_job_another_release_ended_is_thrown_away_as_it_is_claimed(
    farm: Farm, connection: redis.Redis, serve: Serve, settings: Settings
) -> None:
    job = farm.submit(LATENTS, vae=VAE, preview=PREVIEW)
    connection.hset(keys.job(job.id), "status", "finished")
    decoder = Recorder(settings, PREVIEW)

    serve(decoder)

    assert decoder.decoded == []
    assert left_of(connection, job.id) == []


def test_a_repeated_submit_has_one_preview_and_an_ended_job_none(
    farm: Farm, connection: redis.Redis, serve: Serve, settings: Settings
) -> None:
    for _ in range(2):
        job = farm.submit(LATENTS, vae=VAE, preview=PREVIEW, job_id="a")
    assert connection.lrange(f"rq:queue:{QUEUE}", 0, -1) == [b"a--preview"]
    assert farm.submit(LATENTS, vae=VAE, job_id="a") == job
    with pytest.raises(JobConflict):
        farm.submit(LATENTS + 1, vae=VAE, preview=PREVIEW, job_id="a")
    assert len(list(connection.scan_iter(match="vaefarm:latent:*"))) == 2

    serve(Recorder(settings, VAE))
    farm.submit(LATENTS, vae=VAE, preview=PREVIEW, job_id="a")

    assert left_of(connection, "a") == []


def test_latents_that_no_script_carries_have_previews_as_well(
    farm: Farm, serve: Serve, settings: Settings, connection: redis.Redis
) -> None:
    large = np.ones((1, 4, 64, 64), np.float32)
    job = farm.submit(large, vae=VAE, preview=PREVIEW)
    serve(Recorder(settings, PREVIEW))

    image = job.preview()
    assert image is not None
    assert image.size == (512, 512)
    job.discard()
    assert (left_of(connection, job.id), held(connection)) == ([], (0, 0))


@pytest.mark.parametrize(
    ("most_bytes", "jobs", "error"), [(None, 1, QueueFull), (22_000, 1000, InvalidInput)], ids=["jobs", "bytes"]
)
def test_job_and_preview_are_taken_together_or_not_at_all(
    most_bytes: int | None, jobs: int, error: type[FarmError], settings: Settings, connection: redis.Redis
) -> None:
    # Room for the job alone.
    narrow = settings.model_copy(update={"budget_bytes": most_bytes, "max_queued_jobs": jobs})
    with Farm(settings=narrow) as farm:
        with pytest.raises(error):
            farm.submit(LATENTS, vae=VAE, preview=PREVIEW, job_id="a")
        assert not list(connection.scan_iter(match="*a*--preview*"))
        farm.submit(LATENTS, vae=VAE, job_id="a")


@pytest.mark.parametrize(
    ("vae", "latents", "options", "said"),
    [
        ("sd-v1", LATENTS, {"preview": "taef1"}, "takes other latents than VAE 'sd-v1'"),
        ("flux", np.zeros((1, 16, 8, 8), np.float32), {"preview": "taesd"}, "takes other latents"),
        ("sd-v1", LATENTS, {"preview": "sd-v1"}, "is the job's own VAE"),
        ("sd-v1", LATENTS, {"preview": "taesd", "normalised": False}, "normalised=False"),
        ("wan", np.zeros((1, 16, 2, 8, 8), np.float32), {"preview": "wan2-2-5b"}, "'wan2-2-5b' makes videos"),
    ],
)
def test_a_preview_by_a_vae_of_other_latents_is_refused_before_anything_is_queued(
    vae: str, latents: Any, options: dict[str, Any], said: str, farm: Farm, connection: redis.Redis
) -> None:
    with pytest.raises(InvalidOption, match=said) as refusal:
        farm.submit(latents, vae=vae, **options)

    assert "\n" not in str(refusal.value)
    assert not list(connection.scan_iter(match="vaefarm:job:*"))


def test_an_unknown_vae_and_an_id_too_long_are_refused(farm: Farm) -> None:
    with pytest.raises(UnknownVae):
        farm.submit(LATENTS, vae=VAE, preview="none")
    with pytest.raises(InvalidJobId, match="at most 91"):
        farm.submit(LATENTS, vae=VAE, preview=PREVIEW, job_id="a" * 92)
    with pytest.raises(InvalidJobId):
        farm.submit(LATENTS, vae=VAE, job_id="a--preview")


def test_packed_latents_have_one_with_their_size(farm: Farm, serve: Serve, settings: Settings) -> None:
    packed = np.zeros((2, 32, 64), np.float32)
    job = farm.submit(packed, vae="flux", preview="taef1", height=64, width=128)
    serve(Recorder(settings, "taef1"))

    images = [job.preview(index=index) for index in range(3)]
    assert [image and image.size for image in images] == [(128, 64), (128, 64), None]
    job.discard()


def test_what_lies_outside_of_redis_goes_as_what_no_record_names(
    farm: Farm, outside: Any, settings: Settings, serve: Serve, connection: redis.Redis
) -> None:
    chosen = settings.model_copy(update={"store": outside.url, "store_threshold": 0})
    with Farm(settings=chosen) as beside:
        for value in range(3):
            step(beside, "a", value)
        # What was replaced is removed by whoever replaced it.
        assert len(outside.names()) == 1
        serve(Recorder(settings, PREVIEW), settings=chosen)
        assert beside.job("a").preview() is not None
        job = beside.submit(LATENTS, vae=VAE, preview=PREVIEW, job_id="a")
        job.discard()
    assert (left_of(connection, "a"), held(connection)) == ([], (0, 0))
