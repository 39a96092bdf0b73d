"""How the farm stands, as everyone who shows it reads it: over Redis, and over a gateway by an admin and by others."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from tests.claims import take
from tests.conftest import StartWorker, eventually
from tests.producer.conftest import Call
from tests.served_gateway import ServedGateway

from vaefarm_producer import AsyncFarm, Farm
from vaefarm_producer.gateway.key_file import add_key, new_entry, new_key
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared import keys, transitions
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.job import JobStatus
from vaefarm_shared.overview import Overview, VaeOverview, WorkerOverview, worker_overview
from vaefarm_shared.overview_warnings import SILENT_SECONDS
from vaefarm_shared.quarantine import note_exit
from vaefarm_shared.settings import Settings
from vaefarm_shared.transitions import Outcome
from vaefarm_shared.workers import note_death, publish_worker
from vaefarm_worker import worker as worker_module
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.worker import Worker

LATENTS = np.zeros((1, 4, 8, 8), np.float32)


def fail(farm: Farm, connection: redis.Redis, job_id: str, reason: str = "it went wrong", vae: str = "demo") -> None:
    """Have a job fail as a worker has one fail."""
    farm.submit(LATENTS, vae=vae, job_id=job_id)
    (claim,) = take(connection, vae=vae)
    assert transitions.settle(connection, [Outcome(claim, JobStatus.FAILED, "by-hand", reason)]) == [True]


def live(connection: redis.Redis, name: str, **told: object) -> None:
    """Have a worker listed that says this of itself."""
    connection.sadd("rq:workers", f"rq:worker:{name}")
    publish_worker(connection, name, {"vaes": {"demo": "r"}, "sizes": {"demo": ["s", "m"]}, **told})


def of(overview: Overview, vae: str) -> VaeOverview:
    """What is told of a VAE."""
    (found,) = [one for one in overview.vaes if one.id == vae]
    return found


def codes(overview: Overview) -> list[str]:
    """What is warned of."""
    return [one.code for one in overview.warnings]


@pytest.fixture
def guarded(settings: Settings, tmp_path: Path) -> Iterator[tuple[Farm, Farm]]:
    """The farm over a gateway that wants keys: as the holder of the key 'web', and as an admin."""
    file, made = tmp_path / "keys.toml", {False: new_key(), True: new_key()}
    for admin, key in made.items():
        add_key(
            file, new_entry("boss" if admin else "web", key, admin=admin, rate=None, max_in_flight=None), replace=False
        )
    served = ServedGateway(settings, GatewaySettings.from_env(keys=file))
    served.start()
    with Farm(served.url, key=made[False]) as web, Farm(served.url, key=made[True]) as boss:
        yield web, boss
    served.stop()


async def test_a_look_tells_depth_by_priority_backlog_by_pace_and_what_is_held_back(
    farm_settings: Settings, farm: Farm, connection: redis.Redis
) -> None:
    for priority, jobs in (("high", 1), ("normal", 3), ("low", 2)):
        farm.submit_many([LATENTS] * jobs, vae="demo", priority=priority)
    farm.submit_many([LATENTS] * 2, vae="sdxl", producer="crew")
    farm.pause("sdxl")
    connection.hset(keys.PACE, "demo:s", 2.5)
    take(connection)
    for _ in range(3):
        note_exit(connection, "GPU-1", "ECC error")
    live(connection, "w")

    with Farm(settings=farm_settings) as asked:
        found = asked.overview()
    async with AsyncFarm(settings=farm_settings) as other:
        assert (await other.overview()).vaes == found.vaes

    demo, sdxl = of(found, "demo"), of(found, "sdxl")
    assert (demo.queued, demo.by_priority, demo.by_size) == (5, {"high": 0, "normal": 3, "low": 2}, {"s": 5})
    assert (demo.backlog_seconds, demo.pace_known, demo.workers, demo.paused) == (12.5, True, 1, False)
    assert (sdxl.queued, sdxl.backlog_seconds, sdxl.pace_known, sdxl.paused) == (2, 2.0, False, True)
    totals = found.totals
    assert (totals.queued, totals.in_hand, totals.workers, totals.backlog_seconds) == (7, 1, 1, 14.5)
    assert (totals.budget_jobs, totals.budget_jobs_limit, totals.budget_bytes_limit) == (8, 1_000_000, 2 * 2**30)
    assert totals.budget_bytes
    assert totals.redis_bytes
    assert abs(found.taken_at - connection.time()[0]) < 5
    assert [(one.id, one.reason) for one in found.quarantined or ()] == [("GPU-1", "ECC error")]
    assert codes(found) == ["no_worker", "paused", "quarantined"]


def test_a_look_costs_as_much_with_200_000_jobs_and_10_000_failures_as_with_few(
    farm: Farm, connection: redis.Redis
) -> None:
    farm.submit(LATENTS, vae="demo")
    fail(farm, connection, "a")

    def cost() -> tuple[int, ...]:
        """Commands and reads of a look: of several, the one beside which Redis had least to do."""
        return min(cost_once() for _ in range(10))

    def cost_once() -> tuple[int, ...]:
        before, _ = connection.info("stats"), farm.overview()
        after = connection.info("stats")
        return tuple(after[name] - before[name] for name in ("total_commands_processed", "total_reads_processed"))

    few = cost()
    queue = "rq:queue:vaefarm.demo.normal.s.default"
    for start in range(0, 200_000, 10_000):
        connection.rpush(queue, *(f"waiting-{n}" for n in range(start, start + 10_000)))
    connection.zadd("rq:failed:vaefarm.demo.normal.s.default", {f"old-{n}": n for n in range(10_000)})
    connection.zadd(keys.LEASES, {f"held-{n}": n for n in range(1000)})

    assert cost() == few
    assert few[1] <= 3, "two round trips, and one that asks what they cost"
    assert farm.overview().totals.queued >= 200_000


def test_the_newest_failures_are_told_first_and_no_more_than_a_hundred_are_kept(
    farm_settings: Settings, farm: Farm, connection: redis.Redis
) -> None:
    for n in range(105):
        fail(farm, connection, f"job-{n}", reason=f"reason {n}" if n else "x" * 10_000)
    farm.job("job-103").retry()

    with Farm(settings=farm_settings) as asked:
        found = asked.overview()

    assert connection.zcard(keys.FAILURES) == 100
    assert [one.id for one in found.failures] == [f"job-{n}" for n in range(104, 83, -1) if n != 103]
    newest = found.failures[0]
    assert (newest.vae, newest.reason, newest.owner) == ("demo", "reason 104", "admin")
    assert newest.ended_at == farm.job("job-104").record().ended_at
    assert (of(found, "demo").failed, of(found, "demo").queued) == (105, 1)


def test_a_key_that_is_no_admins_sees_what_waits_and_its_own_failures_but_neither_names_nor_the_budget(
    guarded: tuple[Farm, Farm], farm: Farm, connection: redis.Redis
) -> None:
    web, boss = guarded
    fail(web, connection, "mine", reason="mine went wrong")
    fail(farm, connection, "hidden", reason="hidden")
    web.submit(LATENTS, vae="demo", producer="hidden")
    endpoints = [{"vae": "demo", "name": "hidden", "url": "https://hidden/", "state": "open", "last_error": "hidden"}]
    before = {"up_seconds": 0, "busy_seconds": 0, "pictures": 0}
    work = {"hot": ["demo"], "up_seconds": 10.0, "busy_seconds": 5.0, "pictures": 20, "before": before}
    live(connection, "hidden", device="hidden", host="hidden", endpoints=endpoints, device_fault="hidden", **work)
    for _ in range(3):
        note_exit(connection, "hidden", "hidden")

    seen, whole = web.overview(), boss.overview()

    assert "hidden" not in seen.model_dump_json()
    assert ([one.id for one in seen.failures], of(seen, "demo").queued) == (["mine"], 1)
    (worker,) = seen.workers
    assert (worker.name, worker.serves, worker.hot) == (None, ["demo"], ["demo"])
    assert (worker.busy_share, worker.images_per_second) == (0.5, 2.0)
    assert (seen.quarantined, seen.totals.budget_bytes, seen.totals.redis_bytes) == (None, None, None)
    assert (seen.totals.workers, seen.totals.images_per_second) == (1, 2.0)
    assert codes(seen) == []
    assert [one.id for one in whole.failures] == ["hidden", "mine"]
    assert [one.name for one in whole.workers] == ["hidden"]
    assert codes(whole) == ["quarantined", "device_fault", "endpoint"]


def test_what_another_release_says_of_itself_is_kept_and_what_cannot_be_read_counts_as_not_told() -> None:
    told = {"name": "w", "vaes": {"demo": "r", "sdxl": "r"}, "unavailable": {"sdxl": "gone"}, "newer": [1]}
    odd = {"hot": 7, "batch": "many", "before": {"up_seconds": "long"}, "busy_seconds": float("nan"), "endpoints": [3]}

    found = worker_overview(told | odd)

    assert (found.name, found.serves, found.hot, found.batch, found.before) == ("w", ["demo"], [], None, None)
    assert (found.busy_seconds, found.busy_share, found.endpoints) == (None, None, [])
    assert found.model_dump()["newer"] == [1]
    assert worker_overview({"vaes": ["no", "map"], "serves": ["forged"], "busy_share": 9}).serves == []
    assert WorkerOverview.model_validate(json.loads(found.model_dump_json())) == found


@pytest.mark.parametrize(
    ("now", "share", "images"),
    [
        ({"up_seconds": 20, "busy_seconds": 12.5, "pictures": 40}, 0.75, 3.0),
        ({"up_seconds": 10, "busy_seconds": 5, "pictures": 10}, None, None),
        ({"up_seconds": 20, "busy_seconds": 99, "pictures": 3}, 1.0, 0.0),
        ({"up_seconds": 20, "busy_seconds": 5, "pictures": 10, "has_device": False}, None, 0.0),
        ({"up_seconds": 20}, None, None),
    ],
)
def test_a_workers_last_seconds_are_the_difference_of_its_counters(
    now: dict[str, Any], share: float | None, images: float | None
) -> None:
    found = worker_overview({"before": {"up_seconds": 10, "busy_seconds": 5, "pictures": 10}, **now})

    assert (found.busy_share, found.images_per_second) == (share, images)


def test_jobs_that_no_worker_takes_and_a_suspended_rq_are_warned_of(farm: Farm, connection: redis.Redis) -> None:
    farm.submit(np.zeros((1, 4, 160, 160), np.float16), vae="demo")
    farm.submit(LATENTS, vae="sdxl")
    live(connection, "w", vaes={"demo": "r", "sdxl": "r"}, unavailable={"sdxl": "its weights are gone"})
    connection.set("rq:suspended", 1)

    found = farm.overview()

    assert codes(found) == ["suspended", "too_large", "no_worker"]
    assert "size l, for which 1 jobs wait" in found.warnings[1].message
    assert found.warnings[2].message == "no worker serves sdxl, for which 1 jobs wait (vaefarm worker --vaes sdxl)"


def test_a_farm_whose_budget_is_nearly_used_up_is_warned_of(settings: Settings) -> None:
    with Farm(settings=settings.model_copy(update={"max_queued_jobs": 10})) as farm:
        farm.submit_many([LATENTS] * 8, vae="demo")
        assert "nearly_full" not in codes(farm.overview())
        farm.submit(LATENTS, vae="demo")
        assert "90% of the budget of jobs is in use" in farm.overview().warnings[-1].message


def test_a_batch_under_way_is_told_and_counts_as_busy_before_it_ends(
    farm: Farm,
    settings: Settings,
    shared_lifelines: Callable[[Settings], Lifeline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "HEARTBEAT_SECONDS", 0.05)
    held = threading.Event()

    class HeldDecoder(FakeDecoder):
        """Decodes once it is let."""

        def decode(self, *batch: Any, **how: Any) -> Any:
            held.wait(30)
            return super().decode(*batch, **how)

    worker = Worker(settings, HeldDecoder([Catalogue.load()["demo"]]), "here", shared_lifelines(settings))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        job = farm.submit(np.concatenate([LATENTS] * 3), vae="demo")

        def told() -> WorkerOverview:
            return next(iter(farm.overview().workers), WorkerOverview())

        eventually("it is told of", lambda: (told().batch or told().held) and (told().busy_share or 0) > 0.9)
        one = told()
        assert one.batch is not None
        assert (one.batch.vae, one.batch.jobs, one.batch.pictures) == ("demo", 1, 3)
        assert (one.held, one.hot, one.serves, one.pictures, one.finished) == (1, ["demo"], ["demo"], 0, 0)
        assert one.busy_seconds is not None
        assert one.up_seconds is not None
        assert 0 < one.busy_seconds <= one.up_seconds

        held.set()
        job.wait(30)
        eventually("it is counted", lambda: told().pictures == 3 and told().batch is None)
        eventually("it is idle again", lambda: told().busy_share == 0)
        assert (told().finished, told().held) == (1, 0)
    finally:
        held.set()
        worker.stop()
        thread.join(40)


@pytest.mark.slow
def test_busy_share_and_images_a_second_are_what_workers_were_given(farm: Farm, start_worker: StartWorker) -> None:
    """One worker always has work, one for half a second of each, one has none."""
    start_worker("--decoder", "fake", "--fake-seconds", "0.25", vaes="demo")
    start_worker("--decoder", "fake", "--fake-seconds", "0.5", vaes="sdxl")
    start_worker("--decoder", "fake", vaes="sd-v1")
    # Each alone on the device.
    farm.submit_many([LATENTS] * 150, vae="demo", reproducible=True)

    def seconds_told() -> float:
        return min(one.up_seconds or 0.0 for one in farm.overview().workers)

    began, jobs = time.monotonic(), 0
    while seconds_told() < 15:
        if time.monotonic() - began >= jobs:
            farm.submit(LATENTS + jobs, vae="sdxl")
            jobs += 1
        time.sleep(0.05)
    busy, half, idle = farm.overview().workers

    assert (busy.name, half.name, idle.name) == ("worker-0", "worker-1", "worker-2")
    assert 0.85 <= (busy.busy_share or 0) <= 1.0
    assert 2.4 <= (busy.images_per_second or 0) <= 4.1
    assert 0.35 <= (half.busy_share or 0) <= 0.65
    assert 0.7 <= (half.images_per_second or 0) <= 1.3
    assert (idle.busy_share, idle.images_per_second) == (0.0, 0.0)
    totals = farm.overview().totals
    assert totals.workers == 3
    assert 0.4 <= (totals.busy_share or 0) <= 0.6


def test_status_as_json_has_every_field_of_a_look_and_what_it_always_had(
    vaefarm: Call, farm_url: str, farm: Farm, connection: redis.Redis
) -> None:
    fail(farm, connection, "a")
    farm.submit(LATENTS, vae="demo")
    live(connection, "w", memory_bytes=5, jobs_per_second=2.0)
    farm.pause("demo")

    shown = json.loads(vaefarm("status", "--json", url=farm_url).stdout)

    assert shown["queues"] == {"vaefarm.demo.normal.s.default": 1}
    assert (shown["paused"], shown["quarantined"], shown["spooled"]) == (["demo"], [], 0)
    assert shown["workers"][0].items() >= {"name": "w", "vaes": {"demo": "r"}, "memory_bytes": 5}.items()
    assert shown.keys() == {*Overview.model_fields, "queues", "paused", "spooled"}
    assert [one["id"] for one in shown["failures"]] == ["a"]


def test_the_page_on_operation_names_every_field_of_a_look() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    models = [Overview, VaeOverview, WorkerOverview, *(type_of(name) for name in ("totals", "failures", "warnings"))]

    missing = {f"{one.__name__}.{name}" for one in models for name in one.model_fields if f"`{name}`" not in page}

    assert not missing


def type_of(name: str) -> Any:
    """The model of a field of an overview."""
    found: Any = Overview.model_fields[name].annotation
    return found.__args__[0] if hasattr(found, "__args__") else found


def test_a_worker_that_was_killed_is_told_of_until_one_of_its_name_starts(
    farm: Farm, start_worker: StartWorker, guarded: tuple[Farm, Farm]
) -> None:
    web, boss = guarded
    worker = start_worker("--decoder", "fake")
    worker.process.kill()
    eventually("it is told", lambda: farm.overview().deaths)
    assert [one.worker for one in boss.overview().deaths or ()] == [worker.name]
    assert codes(boss.overview()) == ["died"]
    assert (web.overview().deaths, codes(web.overview())) == (None, [])

    start_worker("--decoder", "fake", "--name", worker.name, wait=False)
    eventually("it is back", lambda: not farm.overview().deaths)
    assert [one.name for one in farm.overview().workers] == [worker.name]


def test_a_worker_that_ends_as_it_was_asked_to_has_not_died(farm: Farm, start_worker: StartWorker) -> None:
    worker = start_worker("--decoder", "fake")
    worker.process.terminate()
    assert worker.process.wait(30) == 0, worker.log
    assert farm.overview().deaths == []


def test_a_worker_that_says_nothing_is_told_of(farm: Farm, connection: redis.Redis) -> None:
    live(connection, "w")
    assert (farm.overview().workers[0].silent_seconds or 0) < SILENT_SECONDS
    connection.expire(keys.worker("w"), 10)
    found = farm.overview()
    assert found.workers[0].silent_seconds == pytest.approx(20, abs=1)
    assert [(one.code, "said nothing for" in one.message) for one in found.warnings] == [("silent", True)]


def test_of_many_deaths_the_last_are_kept(farm: Farm, connection: redis.Redis) -> None:
    for number in range(25):
        note_death(connection, f"w{number}")
    assert [one.worker for one in farm.overview().deaths or ()] == [f"w{number}" for number in range(24, 4, -1)]
