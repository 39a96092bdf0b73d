"""The spool: while Redis is away submits are written to disk, and every one reaches the farm once, whatever dies."""

import json
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from rq.utils import as_text
from tests.conftest import RedisServer, Serve, eventually, redis_servers

from vaefarm_producer import (
    AsyncFarm,
    Farm,
    FarmUnavailable,
    JobConflict,
    JobFailed,
    JobNotFound,
    QueueFull,
    UnknownVae,
    WaitTimeout,
)
from vaefarm_producer.spool import Spool
from vaefarm_producer.submission import PreparedJob
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.connection import connect
from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.settings import Settings
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.worker import Worker

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
QUEUE = "rq:queue:vaefarm.demo.normal.s.default"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def down(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own, which keeps what it acknowledged; it does not run yet."""
    (tmp_path / "redis").mkdir()
    server = RedisServer(next(iter(redis_servers().values())), tmp_path / "redis", DURABLE)
    yield server
    server.stop()


def settings_of(server: RedisServer, folder: Path) -> Settings:
    """Patience for an hour: a test that waits for it instead of the spool does not end."""
    return Settings.from_env(redis_url=server.url, submit_timeout=3600.0, spool=str(folder))


@pytest.fixture
def spooling(down: RedisServer, folder: Path) -> Iterator[Farm]:
    with Farm(settings=settings_of(down, folder)) as farm:
        yield farm


def decode_all(server: RedisServer) -> None:
    decoder = FakeDecoder([entry for entry in Catalogue.load() if entry.contract])
    Worker(Settings.from_env(redis_url=server.url), decoder, "here").run(burst=True)


def names(folder: Path) -> set[str]:
    """What is in the spool."""
    return {path.name for path in folder.iterdir()} - {".lock"}


def waiting_ids(server: RedisServer) -> list[str]:
    with connect(server.url) as connection:
        return [as_text(job_id) for job_id in connection.lrange(QUEUE, 0, -1)]


def test_while_redis_is_away_a_generator_loses_no_latent_and_each_is_decoded_once(
    down: RedisServer, spooling: Farm, folder: Path
) -> None:
    down.start()
    jobs, latents = [], [LATENTS + n for n in range(60)]
    for n, latent in enumerate(latents):
        if n == 20:
            down.stop()
        if n == 40:
            down.start()
        jobs.append(spooling.submit(latent, vae="demo"))
        if n == 39:
            assert [job.status().value for job in jobs[20:]] == ["spooled"] * 20

    eventually("all are sent", lambda: not spooling.spooled())

    assert sorted(waiting_ids(down)) == sorted(job.id for job in jobs), "each once"
    decode_all(down)
    assert {job.wait(timeout=30).value for job in jobs} == {"finished"}
    expected = spooling.submit_many(latents, vae="demo")
    decode_all(down)
    assert [job.result(10).data for job in jobs] == [job.result(10).data for job in expected]


def test_spooled_jobs_are_sent_in_the_order_in_which_they_were_submitted(down: RedisServer, spooling: Farm) -> None:
    jobs = spooling.submit_many([LATENTS + n for n in range(30)], vae="demo")
    jobs += [spooling.submit(LATENTS - n, vae="demo") for n in range(30)]

    down.start()

    assert spooling.flush(timeout=30) == (60, 0)
    assert waiting_ids(down) == [job.id for job in jobs]


def test_a_spooled_job_is_known_by_its_status_and_record_and_is_waited_for(
    down: RedisServer, spooling: Farm, folder: Path
) -> None:
    job = spooling.submit(LATENTS, vae="demo", metadata={"prompt": "a cat"})
    record = job.record()
    assert (job.status(), record.status, record.vae, record.metadata) == (
        "spooled",
        "spooled",
        "demo",
        {"prompt": "a cat"},
    )
    with pytest.raises(WaitTimeout, match="has not ended within 0.05 seconds"):
        job.wait(timeout=0.05)
    with pytest.raises(WaitTimeout, match="is spooled; it has no result yet"):
        job.fetch()
    with Farm(settings=settings_of(down, folder)) as elsewhere:
        assert elsewhere.job(job.id).status() == "spooled"

    future = job.ended()
    down.start()
    spooling.flush(timeout=30)
    decode_all(down)

    assert future.result(timeout=30) == "finished"
    assert job.image(timeout=10).size == (64, 64)
    assert names(folder) == set()


async def test_the_async_farm_waits_through_the_spool_too(down: RedisServer, folder: Path) -> None:
    async with AsyncFarm(settings=settings_of(down, folder)) as farm:
        job = await farm.submit(LATENTS, vae="demo")
        assert await job.status() == "spooled"
        down.start()
        assert await farm.flush(timeout=30) == (1, 0)
        decode_all(down)

        assert (await job.image(timeout=30)).size == (64, 64)


def run_producer(folder: Path, code: str) -> "subprocess.Popen[str]":
    """Run code in a process whose farm's Redis is away; `farm` and `latents` are at hand."""
    head = (
        "import sys, numpy as np; from vaefarm_producer import Farm\n"
        "farm = Farm('redis://127.0.0.1:1/0', spool=sys.argv[1]); latents = np.zeros((1, 4, 8, 8), np.float32)\n"
    )
    return subprocess.Popen([sys.executable, "-c", head + code, str(folder)], stdout=subprocess.PIPE, text=True)


def test_a_job_outlives_the_producer_that_is_killed_once_submit_returned(
    farm: Farm, settings: Settings, folder: Path, serve: Serve
) -> None:
    producer = run_producer(folder, "print(farm.submit(latents, vae='demo').id, flush=True); sys.stdin.read()")
    assert producer.stdout is not None
    job_id = producer.stdout.readline().strip()
    producer.kill()
    producer.communicate()
    with pytest.raises(JobNotFound):
        farm.job(job_id).status()

    with Farm(settings=settings, spool=folder) as later:
        assert later.flush(timeout=30) == (1, 0)

    serve()
    assert farm.job(job_id).status() == "finished"


@pytest.mark.parametrize("count", [1, 7, 40])
def test_a_producer_killed_in_mid_submit_loses_nothing_that_was_acknowledged(
    server: RedisServer, settings: Settings, folder: Path, count: int
) -> None:
    producer = run_producer(folder, "while True: print(farm.submit(latents, vae='demo').id, flush=True)")
    assert producer.stdout is not None
    acknowledged = [producer.stdout.readline().strip() for _ in range(count)]
    producer.send_signal(signal.SIGKILL)
    acknowledged += producer.communicate()[0].split()

    with Farm(settings=settings, spool=folder) as later:
        flushed = later.flush(timeout=60)

    queued = waiting_ids(server)
    assert queued[: len(acknowledged)] == acknowledged
    assert len(queued) - len(acknowledged) in (0, 1), "the last may have been on disk before it could be told"
    assert flushed == (len(queued), 0)
    assert {name.rpartition(".")[2] for name in names(folder)} <= {"part"}


def test_what_the_spool_cannot_read_is_set_aside_or_left_alone_with_one_line_and_the_others_are_sent(
    down: RedisServer, spooling: Farm, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn, good = (
        spooling.submit(LATENTS, vae="demo", job_id="torn"),
        spooling.submit(LATENTS, vae="demo", job_id="good"),
    )
    spooling.submit(LATENTS, vae="demo", job_id="flipped")
    whole = (folder / "torn.job").read_bytes()
    (folder / "torn.job").write_bytes(whole[:-100])
    (folder / "flipped.job").write_bytes((folder / "flipped.job").read_bytes()[:-1] + b"x")
    (folder / "renamed.job").write_bytes(whole)
    crater = folder.parent / "crater"
    (folder / "pickle.job").write_bytes(pickle.dumps(Bomb(crater)))
    (folder / "empty.job").write_bytes(b"")
    (folder / "notes.txt").write_text("not a job")
    (folder / "newer.job").write_text(json.dumps({"vaefarm_spool": 2}) + "\n")
    future = torn.ended()

    down.start()
    with caplog.at_level(logging.WARNING, "vaefarm_producer.spool_sender"):
        assert spooling.flush(timeout=30) == (1, 6)
        spooling.submit(LATENTS, vae="demo")

    assert (good.status(), waiting_ids(down)[0]) == ("queued", "good")
    bad = ("empty", "flipped", "newer", "pickle", "renamed", "torn")
    assert names(folder) == {f"{name}{end}" for name in bad for end in (".refused", ".reason")} | {"notes.txt"}
    lines = [record.getMessage() for record in caplog.records]
    said = [*(f"job {name} is set aside" for name in bad), "notes.txt: it is no file of a spool, and is left alone"]
    assert all(sum(words in line for line in lines) == 1 for words in said), lines
    assert not crater.exists()
    assert future.result(timeout=10) == torn.status() == "failed"
    with pytest.raises(JobFailed, match="was not sent: it is torn"):
        torn.result(timeout=5)
    torn.discard()
    with pytest.raises(JobNotFound):
        torn.status()


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return (Path.touch, (self.path,))


def test_two_farms_on_one_spool_send_each_job_once(down: RedisServer, spooling: Farm, folder: Path) -> None:
    with Farm(settings=settings_of(down, folder)) as other:
        for n in range(40):
            (spooling if n % 2 else other).submit(LATENTS + n, vae="demo", job_id=f"job-{n}")
        down.start()
        both = spooling.flush(timeout=30), other.flush(timeout=30)

    assert (sum(one.sent for one in both), sum(one.refused for one in both)) == (40, 0)

    with connect(down.url) as connection:
        submits = connection.info("commandstats")["cmdstat_evalsha"]
    # The first of all finds the script unknown to Redis.
    assert submits["calls"] - submits["failed_calls"] == 40
    assert waiting_ids(down) == [f"job-{n}" for n in range(40)]


def test_a_forked_child_does_not_keep_the_spool_from_others(folder: Path) -> None:
    spool = Spool(folder)
    inside, done = os.pipe(), os.pipe()
    with spool.sending() as is_sender:
        assert is_sender
        with spool.sending() as second:
            assert not second, "one at a time"
        child = multiprocessing.get_context("fork").Process(
            target=lambda: (os.write(inside[1], b"x"), os.read(done[0], 1)), daemon=True
        )
        child.start()
        os.read(inside[0], 1)

    with spool.sending() as is_sender:
        assert is_sender, "the child lives, and holds nothing"

    os.write(done[1], b"x")
    child.join(10)
    for end in (*inside, *done):
        os.close(end)


def test_a_conflict_found_while_sending_is_set_aside_with_its_reason_and_the_others_are_sent(
    down: RedisServer, spooling: Farm, folder: Path
) -> None:
    job = spooling.submit(LATENTS, vae="demo", job_id="order-17")
    other = spooling.submit(LATENTS, vae="demo")
    with pytest.raises(JobConflict, match=r"other latents or options \(spooled\)"):
        spooling.submit(LATENTS + 1, vae="demo", job_id="order-17")
    assert spooling.submit(LATENTS, vae="demo", job_id="order-17") == job
    future = job.ended()
    # Somebody else takes the id before Redis is asked.
    with Spool(folder).sending() as is_sender:
        assert is_sender
        down.start()
        with Farm(down.url) as elsewhere:
            elsewhere.submit(LATENTS + 1, vae="demo", job_id="order-17")

    assert spooling.flush(timeout=30) == (1, 1)

    assert other.status() == "queued"
    assert names(folder) == {"order-17.refused", "order-17.reason"}
    assert "was used for other latents" in (folder / "order-17.reason").read_text()
    assert future.result(timeout=10) == "failed"
    with pytest.raises(JobFailed, match="was not sent.*was used for other latents"):
        job.result(timeout=5)


def test_a_job_that_no_farm_of_that_size_takes_is_set_aside_with_its_reason(down: RedisServer, folder: Path) -> None:
    small = settings_of(down, folder).model_copy(update={"budget_bytes": 60_000})
    with Farm(settings=small) as spooling:
        large = spooling.submit(np.zeros((1, 4, 32, 32), np.float32), vae="demo")
        other = spooling.submit(LATENTS, vae="demo")
        down.start()

        assert spooling.flush(timeout=30) == (1, 1)

        assert other.status() == "queued"
        with pytest.raises(JobFailed, match="was not sent.* the farm at most 60000 in all"):
            large.result(timeout=5)


def test_a_job_canceled_in_the_spool_is_never_sent(down: RedisServer, spooling: Farm, folder: Path) -> None:
    canceled, kept, more = (spooling.submit(LATENTS + n, vae="demo") for n in range(3))
    future = canceled.ended()

    assert canceled.cancel()
    assert future.result(timeout=10) == "canceled"
    assert spooling.cancel_many([canceled, more]) == ["canceled", "canceled"]
    with Farm(settings=settings_of(down, folder)) as elsewhere:
        assert elsewhere.job(canceled.id).status() == "canceled"
    down.start()
    spooling.flush(timeout=30)
    eventually("the cancels are told", lambda: names(folder) == set())

    assert waiting_ids(down) == [kept.id]


def test_a_cancel_reaches_a_job_that_redis_got_though_its_reply_was_lost(
    down: RedisServer, spooling: Farm, folder: Path
) -> None:
    job = spooling.submit(LATENTS, vae="demo", job_id="a")
    copy = (folder / "a.job").read_bytes()
    down.start()
    spooling.flush(timeout=30)
    down.stop()
    (folder / "a.job").write_bytes(copy)

    assert job.cancel()
    down.start()
    eventually("the cancel is told", lambda: names(folder) == set())

    assert job.status() == "canceled"
    assert waiting_ids(down) == []


def test_an_id_that_was_canceled_in_the_spool_may_be_submitted_anew(
    down: RedisServer, spooling: Farm, folder: Path
) -> None:
    spooling.submit(LATENTS, vae="demo", job_id="a").cancel()
    job = spooling.submit(LATENTS + 1, vae="demo", job_id="a")
    assert job.status() == "spooled"

    down.start()
    spooling.flush(timeout=30)

    eventually("nothing is left", lambda: names(folder) == set())
    assert job.status() == "queued"


def test_what_a_full_farm_refuses_is_not_spooled(down: RedisServer, spooling: Farm, folder: Path) -> None:
    down.start()
    with connect(down.url) as connection:
        connection.config_set("maxmemory", "1")

    with pytest.raises(QueueFull):
        spooling.submit(LATENTS, vae="demo")

    assert names(folder) == set()


def test_a_spooled_job_waits_in_the_spool_while_the_farm_is_full(
    down: RedisServer, spooling: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    job = spooling.submit(LATENTS, vae="demo")
    down.options = (*DURABLE, "--maxmemory", "1")
    down.start()
    with connect(down.url) as connection:
        eventually("it was refused", lambda: "has no memory left" in caplog.text)
        assert job.status() == "spooled"
        connection.config_set("maxmemory", "0")

        assert spooling.flush(timeout=30) == (1, 0)
    assert job.status() == "queued"


def test_a_disk_that_takes_no_more_refuses_the_submit_in_one_line_and_keeps_what_it_took(
    spooling: Farm, folder: Path
) -> None:
    kept = spooling.submit(LATENTS, vae="demo")
    large = np.zeros((1, 4, 256, 256), np.float32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, limits[1]))
    try:
        with pytest.raises(FarmUnavailable, match="took 1 of 2 jobs: File too large; make room there"):
            spooling.submit_many([LATENTS, large], vae="demo")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert spooling.spooled() == 2
    assert f"{kept.id}.job" in names(folder)
    assert all(name.endswith(".job") for name in names(folder)), "nothing half-written is left"


def test_latents_are_checked_against_the_catalogue_while_redis_is_away(spooling: Farm) -> None:
    with pytest.raises(UnknownVae, match="expected one of auraflow"):
        spooling.submit(LATENTS, vae="sd4")

    assert spooling.submit(LATENTS, vae="sdxl").status() == "spooled"


def test_a_deadline_runs_in_the_spool_too(down: RedisServer, spooling: Farm, folder: Path) -> None:
    late = spooling.submit(LATENTS, vae="demo", deadline_seconds=100)
    timely = spooling.submit(LATENTS, vae="demo", deadline_seconds=100_000)
    for job in (late, timely):
        path = folder / f"{job.id}.job"
        os.utime(path, (path.stat().st_mtime - 1000,) * 2)

    down.start()
    spooling.flush(timeout=30)
    decode_all(down)

    assert (late.status(), timely.status()) == ("expired", "finished")


def test_submits_during_an_outage_do_not_wait_for_redis_each(
    spooling: Farm, down: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooling.submit(LATENTS, vae="demo")
    tried: list[str] = []
    connect_once = redis.Connection.connect

    def note(self: redis.Connection) -> None:
        # Gateways that the tests share ask for servers of their own.
        if self.port == down.port:
            tried.append(threading.current_thread().name)
        connect_once(self)

    monkeypatch.setattr(redis.Connection, "connect", note)
    for _ in range(20):
        spooling.submit(LATENTS, vae="demo")

    assert set(tried) <= {"vaefarm-spool"}, "the sender alone asks whether Redis is back"


def test_a_farm_whose_spool_cannot_be_written_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match=r"spool .*file/spool: .*; expected a folder that can be written"):
        Farm(spool=tmp_path / "file" / "spool")


def test_a_spool_takes_every_byte_back_as_it_was_given(spooling: Farm, folder: Path) -> None:
    awkward = {"prompt": 'line\nbreak "quotes" \N{PILE OF POO}\x00', "x": "y" * 10_000}
    prepared: PreparedJob = spooling.prepare(LATENTS, vae="demo", metadata=awkward, priority="high")

    spooling.submit_prepared([prepared])

    assert Spool(folder).read(prepared.spec.id).job == prepared
