"""The operator's commands as they are typed: what they show, what they change, what a program reads of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from safetensors.numpy import save_file
from tests.conftest import RedisServer, Serve, redis_servers
from tests.producer.conftest import Call
from tests.served_gateway import ServedGateway

from vaefarm_producer import Farm, doctor
from vaefarm_producer.gateway.key_file import add_key, new_entry, new_key
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared import keys
from vaefarm_shared.quarantine import note_exit
from vaefarm_shared.settings import Settings

LATENTS = np.zeros((1, 4, 8, 8), np.float32)
QUEUE = "rq:queue:vaefarm.demo.normal.s.default"


def fail(farm: Farm, connection: redis.Redis, job_id: str, vae: str = "demo", ended_at: float = 2e9) -> None:
    """Leave a job as a worker leaves one that has failed."""
    farm.submit(LATENTS, vae=vae, job_id=job_id)
    connection.delete(f"rq:queue:vaefarm.{vae}.normal.s.default")
    ended: dict[Any, Any] = {
        "status": "failed",
        "reason": f"[{job_id}] went wrong",
        "attempts": 3,
        "ended_at": ended_at,
    }
    connection.hset(keys.job(job_id), mapping=ended)
    connection.zadd(f"rq:failed:vaefarm.{vae}.normal.s.default", {job_id: 3e9})


def test_failed_shows_the_newest_jobs_first_with_their_reasons(
    vaefarm: Call, farm_url: str, farm: Farm, connection: redis.Redis
) -> None:
    for n, job_id in enumerate(["a", "b", "c"]):
        fail(farm, connection, job_id, ended_at=1.7e9 + n)
    fail(farm, connection, "d", vae="sdxl", ended_at=1)

    shown = vaefarm("failed", url=farm_url).stdout
    newest = [json.loads(line) for line in vaefarm("failed", "--limit", 2, "--json", url=farm_url).stdout.splitlines()]
    of_sdxl = vaefarm("failed", "--vae", "sdxl", "--json", url=farm_url).stdout

    assert [shown.index(f"[{job_id}] went") for job_id in "cbad"] == sorted(shown.index(f"[{j}] went") for j in "abcd")
    assert "the newest 2 of 4; --limit 0 shows all" in vaefarm("failed", "--limit", 2, url=farm_url).stdout
    assert [(job["id"], job["vae"], job["attempts"]) for job in newest] == [("c", "demo", 3), ("b", "demo", 3)]
    assert json.loads(of_sdxl)["reason"] == "[d] went wrong"
    assert vaefarm("failed", "--vae", "flux", url=farm_url).stdout.strip() == "no failed job"


def test_failed_jobs_are_retried_by_id_or_all_of_a_vae(
    vaefarm: Call, farm_url: str, farm: Farm, connection: redis.Redis
) -> None:
    for job_id in ("a", "b", "c"):
        fail(farm, connection, job_id)
    fail(farm, connection, "d", vae="sdxl")

    one = vaefarm("failed", "--retry", "a", "--retry", "nobody", url=farm_url)
    assert (one.returncode, one.stdout.splitlines()[0]) == (1, "a: queued again")
    assert "'nobody' is not known" in one.stdout
    rest = vaefarm("failed", "--retry-all", "--vae", "demo", "--json", url=farm_url)

    assert rest.returncode == 0, rest.stderr
    assert {json.loads(line)["id"] for line in rest.stdout.splitlines()} == {"b", "c"}
    assert [farm.job(job_id).status().value for job_id in "abcd"] == ["queued"] * 3 + ["failed"]


def test_a_paused_vae_is_shown_until_it_is_resumed(vaefarm: Call, farm_url: str, farm: Farm) -> None:
    assert vaefarm("pause", "demo", "sdxl", url=farm_url).stdout.splitlines() == ["demo: paused", "sdxl: paused"]
    assert vaefarm("pause", "demo", url=farm_url).stdout.strip() == "demo: was paused already"
    assert "paused: demo, sdxl" in vaefarm("status", url=farm_url).stdout
    assert farm.paused() == ["demo", "sdxl"]

    resumed = vaefarm("resume", "demo", "--json", url=farm_url).stdout
    assert json.loads(resumed) == {"vae": "demo", "changed": True}
    assert vaefarm("resume", "demo", url=farm_url).stdout.strip() == "demo: was not paused"
    assert vaefarm("resume", "--all", url=farm_url).stdout.strip() == "sdxl: resumed"
    assert json.loads(vaefarm("status", "--json", url=farm_url).stdout)["paused"] == []


def test_a_quarantined_device_is_shown_until_it_is_released(
    vaefarm: Call, farm_url: str, farm: Farm, connection: redis.Redis
) -> None:
    for _ in range(3):
        note_exit(connection, "host[0]:GPU-1", "ECC error")
    note_exit(connection, "host:GPU-2", "x")

    assert "quarantined: host[0]:GPU-1: ECC error" in vaefarm("status", url=farm_url).stdout
    (quarantined,) = json.loads(vaefarm("status", "--json", url=farm_url).stdout)["quarantined"]
    assert (quarantined["id"], quarantined["exits"]) == ("host[0]:GPU-1", 3)
    table = vaefarm("devices", url=farm_url).stdout
    assert "host[0]:GPU-1" in table
    assert "host:GPU-2" in table

    assert vaefarm("devices", "--release", "host:GPU-2", url=farm_url).returncode == 1
    assert vaefarm("devices", "--release-all", url=farm_url).stdout.strip() == "host[0]:GPU-1: released"
    assert farm.quarantined() == []


def test_every_waiting_job_of_a_vae_is_canceled_at_once(vaefarm: Call, farm_url: str, farm: Farm) -> None:
    jobs = farm.submit_many([LATENTS] * 3, vae="demo")
    other = farm.submit(LATENTS, vae="sdxl")

    done = vaefarm("cancel", "--all-queued", "--vae", "demo", "--json", url=farm_url)

    assert {json.loads(line)["id"]: json.loads(line)["status"] for line in done.stdout.splitlines()} == {
        job.id: "canceled" for job in jobs
    }
    assert other.status() == "queued"
    assert "no job waits for flux" in vaefarm("cancel", "--all-queued", "--vae", "flux", url=farm_url).stderr


def test_canceling_an_unknown_job_exits_1_and_the_others_are_canceled(vaefarm: Call, farm_url: str, farm: Farm) -> None:
    job = farm.submit(LATENTS, vae="demo")

    done = vaefarm("cancel", "nobody", job.id, url=farm_url)

    assert (done.returncode, done.stdout.splitlines()) == (
        1,
        ["nobody: not canceled, it is not known", f"{job.id}: canceled"],
    )


BAD_CALLS = [
    (["pause", "sd4"], 2, "VAE 'sd4' is not known; expected one of auraflow"),
    (["resume", "sd4"], 2, "VAE 'sd4' is not known"),
    (["resume"], 2, "expected either VAE ids or --all"),
    (["resume", "demo", "--all"], 2, "expected either VAE ids or --all"),
    (["cancel"], 2, "expected either job ids, or --all-queued with --vae VAE"),
    (["cancel", "--all-queued"], 2, "expected either job ids, or --all-queued with --vae VAE"),
    (["cancel", "a", "--vae", "demo"], 2, "expected either job ids, or --all-queued with --vae VAE"),
    (["failed", "--retry", "a", "--retry-all"], 2, "expected it without --retry-all"),
    (["failed", "--retry", "a b"], 2, "job id 'a b' is not allowed"),
    (["devices", "--release", "a", "--release-all"], 2, "expected either --release DEVICE or --release-all"),
    (["submit"], 2, "no files were given; expected safetensors files, or --spool DIR"),
    (["submit", "x.safetensors"], 2, "--vae is missing"),
    (["submit", "--spool", "/dev/null/spool"], 2, "spool /dev/null/spool: Not a directory; expected a folder"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), BAD_CALLS, ids=lambda value: None)
def test_a_bad_call_says_one_line(
    vaefarm: Call, server: RedisServer, arguments: list[str], code: int, said: str
) -> None:
    done = vaefarm(*arguments, url=server.url)

    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def findings(vaefarm: Call, url: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, tuple[str, str]]]:
    """The doctor's exit code, and the level and message of each check; the last where there are several."""
    done = vaefarm("doctor", "--json", url=url, env=env)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {one["check"]: (one["level"], one["message"]) for one in found}


def test_the_doctor_finds_nothing_wrong_with_a_farm_as_it_should_be(
    vaefarm: Call, server: RedisServer, connection: redis.Redis, tmp_path: Path
) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "100mb")
    sound = RedisServer(next(iter(redis_servers().values())), tmp_path, options)
    sound.start()
    try:
        code, found = findings(vaefarm, url=sound.url)
        shown = vaefarm("doctor", url=sound.url).stdout.splitlines()
    finally:
        sound.stop()

    assert code == 0
    assert {check: level for check, (level, _) in found.items() if level != "ok"} == {"workers": "warning"}
    assert found["memory"][1] == "budget 60 MiB of maxmemory 100 MiB"
    assert len(shown) == len(found), "one line each"


def test_the_doctor_names_what_is_wrong_and_exits_1_on_an_error(
    vaefarm: Call, server: RedisServer, farm: Farm, connection: redis.Redis
) -> None:
    farm.submit(LATENTS, vae="demo")
    farm.pause("sdxl")
    for _ in range(3):
        note_exit(connection, "GPU-1", "ECC error")
    connection.set("rq:suspended", 1)

    code, found = findings(vaefarm, url=server.url, env={"VAEFARM_BUDGET_BYTES": str(1 << 30)})
    assert code == 0, "warnings alone are no error"
    assert found["durability"] == ("warning", found["durability"][1])
    assert "no append-only file" in found["durability"][1]
    assert found["memory"] == ("note", "no maxmemory; the budget of 1024 MiB bounds latents and pictures")
    assert found["workers"] == ("warning", "1 jobs wait for demo, which no worker serves")
    assert found["paused"] == ("warning", "sdxl; `vaefarm resume` ends it")
    assert found["devices"][0] == "warning"
    assert "GPU-1 is quarantined: ECC error; `vaefarm devices --release GPU-1` ends it" in found["devices"][1]
    assert found["suspended"][0] == "warning"

    connection.config_set("maxmemory-policy", "allkeys-lru")
    connection.config_set("maxmemory", str(1 << 29))
    try:
        code, found = findings(vaefarm, url=server.url, env={"VAEFARM_BUDGET_BYTES": str(1 << 30)})
    finally:
        connection.config_set("maxmemory-policy", "noeviction")
        connection.config_set("maxmemory", "0")
    assert code == 1
    assert found["eviction"][0] == found["memory"][0] == "error"
    assert "allkeys-lru, which deletes acknowledged jobs" in found["eviction"][1]


def test_the_doctor_says_that_redis_is_away_in_one_line(vaefarm: Call) -> None:
    code, found = findings(vaefarm, url="redis://127.0.0.1:1/0")

    assert code == 1
    assert list(found) == ["Redis"]
    assert "is not reachable" in found["Redis"][1]


def test_a_clock_that_is_off_is_a_note(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    now, _ = connection.time()
    monkeypatch.setattr("time.time", lambda: now + 120.0)

    found = doctor.clock_skew(connection)

    assert (found.level, "120 s ahead of Redis'" in found.message or "119 s" in found.message) == ("note", True)


def test_submit_with_a_spool_keeps_jobs_while_redis_is_away_and_sends_them_later(
    vaefarm: Call, server: RedisServer, farm: Farm, serve: Serve, tmp_path: Path
) -> None:
    save_file({"latents": LATENTS}, tmp_path / "one.safetensors")
    away, spool = "redis://127.0.0.1:1/0", tmp_path / "spool"

    submitted = vaefarm(
        "submit", tmp_path / "one.safetensors", "--vae", "demo", "--no-wait", "--spool", spool, url=away
    )

    job_id = submitted.stdout.strip()
    assert submitted.returncode == 0, submitted.stderr
    assert "Redis is away, 1 jobs are spooled" in submitted.stderr
    shown = vaefarm("status", job_id, "--json", url=away, env={"VAEFARM_SPOOL": str(spool)}).stdout
    assert json.loads(shown)["status"] == "spooled"
    failed = vaefarm("submit", "--spool", spool, url=away)
    assert failed.returncode == 1
    assert "is not reachable" in failed.stderr.splitlines()[-1]

    sent = vaefarm("submit", "--spool", spool, url=server.url)

    assert (sent.returncode, sent.stdout.strip()) == (0, f"1 jobs sent from {spool}, 0 refused"), sent.stderr
    assert farm.job(job_id).status() == "queued"
    again = vaefarm("submit", "--spool", spool, "--json", url=server.url)
    assert json.loads(again.stdout) == {"sent": 0, "refused": 0}


def test_status_shows_a_plain_key_what_waits_though_devices_are_for_admins(
    vaefarm: Call, settings: Settings, farm: Farm, tmp_path: Path
) -> None:
    key, file = new_key(), tmp_path / "keys.toml"
    add_key(file, new_entry("web", key, admin=False, rate=None, max_in_flight=None), replace=False)
    farm.submit(LATENTS, vae="demo")
    gateway = ServedGateway(settings, GatewaySettings.from_env(keys=file))
    gateway.start()
    try:
        done = vaefarm("status", "--json", url=gateway.url, env={"VAEFARM_KEY": key})
    finally:
        gateway.stop()
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert (list(shown["queues"].values()), shown["quarantined"]) == ([1], None)
