"""The whole life of jobs under the users of `vaefarm acl`: Redis refuses nothing of it, and everything else."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import aiohttp
import numpy as np
import pytest
import redis
from PIL import Image
from rq import Queue as RqQueue
from rq.serializers import JSONSerializer
from tests.claims import take
from tests.conftest import eventually
from tests.guarded.conftest import GuardedServer
from tests.producer.conftest import Call

from vaefarm_producer import Farm, JobFailed
from vaefarm_producer.gateway.key_file import add_key, new_entry, new_key
from vaefarm_shared import acl, budget, device_locks, keys, leases, quarantine, rq_bridge, workers
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.connection import connect
from vaefarm_shared.leases import Source, Wanted
from vaefarm_shared.scripts import script
from vaefarm_shared.settings import Settings
from vaefarm_shared.stranded import Stranded
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode
from vaefarm_worker.worker import Worker

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)
LARGE = np.zeros((1, 4, 160, 160), np.float16)


class BrokenDecoder(FakeDecoder):
    """Decodes nothing."""

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        raise RuntimeError("broken")


@contextmanager
def process(*arguments: str, settings: Settings, log: Path, **variables: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A command of the farm in a process of its own, ended with the block."""
    environment = os.environ | {"VAEFARM_REDIS_URL": settings.redis_url.get_secret_value()} | variables
    with log.open("wb") as written:
        started = subprocess.Popen([sys.executable, "-m", *arguments], env=environment, stdout=written, stderr=written)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
        started.wait(30)


@contextmanager
def listening() -> "Iterator[tuple[str, Queue[dict[str, Any]]]]":
    """Somewhere that webhooks may go: its address, and what came."""
    told: Queue[dict[str, Any]] = Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/told", told
        server.shutdown()


@pytest.mark.redis
@pytest.mark.slow
def test_producers_workers_operators_and_reapers_are_refused_nothing(
    guarded: GuardedServer, administrator: redis.Redis, vaefarm: Call
) -> None:
    producing, working = guarded.settings_of("gateway"), guarded.settings_of("worker", max_attempts=1)
    operator, reaping = guarded.url_of("operator"), guarded.url_of("reaper")
    with ExitStack() as stack:
        farm = stack.enter_context(Farm(settings=producing))
        worker, producer = (stack.enter_context(connect(guarded.url_of(role))) for role in ("worker", "gateway"))
        reaper = stack.enter_context(connect(reaping))

        def work(decoder: type[FakeDecoder] = FakeDecoder) -> None:
            served = [entry for entry in Catalogue.load() if entry.contract]
            Worker(working, decoder(served), "here").run(burst=True)

        # Decode, encode, wait, fetch, discard; latents large and small.
        waited: list[Any] = []
        job = farm.submit(LATENTS, vae="demo", priority="high", producer="crew", metadata={"a": "b"})
        listener = threading.Thread(target=lambda: waited.append(job.image(timeout=30)))
        listener.start()
        others = [*farm.submit_many([LATENTS, LARGE], vae="demo"), farm.encode(Image.new("RGB", (64, 64)), vae="demo")]
        work()
        listener.join(30)
        assert [one.status() for one in (job, *others)] == ["finished"] * 4
        assert len(waited) == 1
        for _ in farm.as_completed(others, discard=True):
            pass
        # Previews: with a job, of steps, replaced, shown, dropped, and as their workers die.
        with farm.previews("steps", vae="taesd") as previews:
            for value in range(3):
                previews.send(LATENTS + value)
            eventually("one waits", lambda: administrator.exists(keys.job("steps--preview")))
        quick = farm.submit(LATENTS, vae="demo", job_id="steps", preview="taesd")
        work()
        assert quick.preview() is None
        leases.claim(worker, "w", Wanted([Source("taesd", "normal", 0.0, ("s",))], 1, 10**9, 600.0))
        farm.submit(LATENTS, vae="demo", preview="taesd").cancel()
        # Cancel, expire, pause and resume, fail and retry.
        assert farm.submit(LATENTS, vae="demo").cancel()
        farm.cancel_many(farm.submit_many([LATENTS] * 2, vae="demo"))
        late = farm.submit(LATENTS, vae="demo", deadline_seconds=0.001)
        failing = farm.submit(LARGE, vae="demo", job_id="failing")
        work(BrokenDecoder)
        assert (late.status(), failing.status()) == ("expired", "failed")
        assert vaefarm("failed", "--retry", "failing", url=operator).returncode == 0
        assert vaefarm("pause", "demo", url=operator).returncode == 0
        work()
        assert failing.status() == "queued"
        assert vaefarm("resume", "demo", url=operator).returncode == 0
        assert "failing" in vaefarm("status", "failing", url=operator).stdout
        assert "demo" in vaefarm("status", url=operator).stdout
        assert json.loads(vaefarm("status", "--json", url=guarded.url_of("gateway")).stdout)["failures"] == []
        assert vaefarm("cancel", "--all-queued", "--vae", "demo", url=operator).returncode == 0
        # A plain RQ job, and one that waits for ours.
        argument = farm.put_latent(LATENTS, vae="demo")
        plain = RqQueue("vaefarm.demo", connection=producer, serializer=JSONSerializer)
        plain.enqueue(rq_bridge.JOB_FUNCTION, argument, job_id=argument["id"])
        dependent = RqQueue("mail", connection=producer, serializer=JSONSerializer)
        waiting = dependent.enqueue("mail.send", depends_on=argument["id"])
        work()
        assert farm.job(argument["id"]).status() == "finished"
        assert vaefarm("reap", "--once", url=reaping).returncode == 0
        assert dependent.job_ids == [waiting.id]
        # Workers that die, that no job fits, and whose device fails.
        lost = farm.submit(LATENTS, vae="demo")
        (claimed,) = take(worker, 1)
        administrator.zadd(keys.LEASES, {claimed.job_id: 1.0})
        eventually("the reaper returns it", lambda: vaefarm("reap", "--once", url=reaping) and lost.record().last_error)
        work()
        assert lost.status() == "finished"
        stranded = farm.submit(LATENTS, vae="demo")
        leases.give_back(worker, [(one, "avoid") for one in take(worker, 1, worker="w")], "w", "no room")
        administrator.sadd("rq:workers", "rq:worker:w")
        administrator.set(keys.worker("w"), json.dumps({"name": "w", "vaes": {"demo": "r"}, "sizes": {"demo": ["s"]}}))
        assert Stranded(reaper, patience_seconds=0.0).look() >= 1
        with pytest.raises(JobFailed, match="no room"):
            stranded.result(timeout=5)
        administrator.delete(keys.worker("w"))
        hold = device_locks.take(worker, ["host-gpu-2"], "here", "token", 60.0)
        assert hold is not None
        assert device_locks.renew(worker, hold, 60.0) is None
        for _ in range(quarantine.EXITS):
            quarantine.note_exit(worker, "host-gpu-1", "fell off the bus")
        assert "host-gpu-1" in vaefarm("devices", url=operator).stdout
        assert vaefarm("devices", "--release", "host-gpu-1", url=operator).returncode == 0
        assert "host-gpu-2" in vaefarm("devices", url=operator).stdout
        device_locks.free(worker, hold)
        # What is tidied now and then, and a budget that somebody garbled.
        for one in (worker, producer):
            administrator.hincrby(keys.BUDGET, "bytes", 1 << 40)
            administrator.hset(keys.INFLIGHT, "ghost", 3)
            administrator.delete(keys.REPAIRING)
            budget.repair(one)
            rq_bridge.clean_registries(one)
            workers.forget_dead(one)
        assert vaefarm("health", "reaper", url=reaping).returncode == 0
        # What operators look at.
        for command in ("status", "endpoints", "failed", "devices", "doctor"):
            shown = vaefarm(command, url=operator)
            assert (shown.returncode, shown.stderr) == (0, ""), (command, shown)

    assert guarded.denied() == []


@pytest.mark.slow
def test_gateways_and_workers_in_processes_of_their_own_are_refused_nothing(
    guarded: GuardedServer, administrator: redis.Redis, tmp_path: Path, vaefarm: Call
) -> None:
    path, admin, web = tmp_path / "keys.toml", new_key(), new_key()
    add_key(path, new_entry("ops", admin, admin=True, rate=None, max_in_flight=None))
    add_key(path, new_entry("web", web, admin=False, rate="1000/second; 100000/hour", max_in_flight=100))
    with ExitStack() as stack:
        hook, told = stack.enter_context(listening())
        stack.enter_context(
            process(
                *("vaefarm_producer", "gateway", "--port", "0"),
                settings=guarded.settings_of("gateway"),
                log=tmp_path / "gateway.log",
                VAEFARM_KEYS=str(path),
                VAEFARM_WEBHOOK_HOSTS="127.0.0.1",
            )
        )
        stack.enter_context(
            process("vaefarm_producer", "reap", settings=guarded.settings_of("reaper"), log=tmp_path / "reap.log")
        )

        def start_worker(name: str, seconds: float) -> "subprocess.Popen[bytes]":
            started = stack.enter_context(
                process(
                    *("vaefarm_worker", "--vaes", "demo", "--decoder", "fake", "--name", name),
                    *("--fake-seconds", str(seconds)),
                    settings=guarded.settings_of("worker"),
                    log=tmp_path / f"{name}.log",
                )
            )
            eventually("the worker serves", lambda: administrator.exists(keys.worker(name)))
            return started

        first = start_worker("first", 60.0)
        log = tmp_path / "gateway.log"
        eventually("the gateway serves", lambda: "serves" in log.read_text())
        url = log.read_text().partition("serves ")[2].split()[0]
        job_id = asyncio.run(submit(url, web, hook))
        eventually("the worker decodes", lambda: administrator.hget(keys.job(job_id), "status") == b"started")
        first.kill()
        eventually("its job is handed back", lambda: administrator.hget(keys.job(job_id), "status") == b"queued")
        start_worker("second", 0.0)
        asyncio.run(follow(url, web, admin, job_id))
        health = vaefarm("health", "worker", url=guarded.url_of("worker"))
        assert health.returncode == 0, health
        assert told.get(timeout=30)["data"]["id"] == job_id

    assert guarded.denied() == [], log.read_text()


async def submit(url: str, key: str, hook: str) -> str:
    """Queue a job over HTTP; its id."""
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as client:
        options = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float16", "webhook": hook}
        async with client.post("/v1/jobs", params=options, data=LATENTS.tobytes()) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["id"])


async def follow(url: str, key: str, admin: str, job_id: str) -> None:
    """Wait for it in each way, and ask everything else that a gateway answers."""
    async with (
        aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as client,
        aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {admin}"}) as operator,
    ):
        async with client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"}) as answer:
            assert (await answer.json())["status"] == "finished"
        async with client.get(f"/v1/jobs/{job_id}/events") as answer:
            assert "finished" in await answer.text()
        async with client.get("/v1/events", headers={"Last-Event-ID": "1-1"}) as answer:
            assert b"reset" in await answer.content.readuntil(b"\n\n")
        for path in (f"/v1/jobs/{job_id}/image", "/v1/queues", "/v1/workers", "/v1/vaes", "/v1/webhooks/secret"):
            async with client.get(path) as answer:
                assert answer.status == 200, await answer.text()
        for path in ("/metrics", "/v1/devices", "/v1/endpoints", "/v1/failed", "/v1/queued?vae=demo", "/ready"):
            async with operator.get(path) as answer:
                assert answer.status == 200, await answer.text()
        for path in ("/", "/vaes/demo", f"/jobs/{job_id}"):
            for visitor in (client, operator):
                async with visitor.get(path, headers={"Accept": "text/html"}) as answer:
                    assert answer.status == 200, await answer.text()
        for path in ("/page/events", f"/page/jobs/{job_id}/events"):
            async with client.get(path) as answer:
                assert b"event: sections" in await answer.content.readuntil(b"\n\n")
        for path in ("/v1/statuses", "/v1/cancels"):
            async with client.post(path, json={"ids": [job_id]}) as answer:
                assert answer.status == 200, await answer.text()
        hf = {"Content-Type": "tensor/binary"}
        options = {"shape": "[1,4,8,8]", "dtype": "float16", "output_type": "pil"}
        async with client.post("/hf/demo", params=options, data=LATENTS.tobytes(), headers=hf) as answer:
            assert answer.status == 200, await answer.text()
        async with client.delete(f"/v1/jobs/{job_id}") as answer:
            assert answer.status in (200, 204), await answer.text()


#: What no part of a farm may do, whoever took it over.
FORBIDDEN: dict[str, Callable[[redis.Redis], object]] = {
    "empty the database": lambda client: client.flushall(),
    "empty one": lambda client: client.flushdb(),
    "list every key": lambda client: client.keys("*"),
    "change the configuration": lambda client: client.config_set("maxmemory", 1),
    "read another's key": lambda client: client.get("session:1"),
    "write another's key": lambda client: client.set("session:1", "x"),
    "delete another's key": lambda client: client.delete("session:1"),
    "rename its own": lambda client: client.rename(keys.BUDGET, "session:2"),
    "read another's key in a script": lambda client: client.evalsha(
        client.script_load("return redis.call('GET', 'session:1')"), 0
    ),
    "run a command in a script that it must not": lambda client: client.evalsha(
        client.script_load("return redis.call('FLUSHALL')"), 0
    ),
    "listen to another's channel": lambda client: client.execute_command("SUBSCRIBE", "chat"),
    "speak on another's channel": lambda client: client.publish("chat", "x"),
    "see who may do what": lambda client: client.acl_list(),
    "let others in": lambda client: client.acl_setuser("mallory", enabled=True, nopass=True),
    "listen to all": lambda client: client.execute_command("MONITOR"),
    "end others' connections": lambda client: client.client_kill_filter(_type="normal"),
    "end the server": lambda client: client.execute_command("SHUTDOWN", "NOSAVE"),
    "copy it": lambda client: client.execute_command("REPLICAOF", "localhost", "1"),
    "load a module": lambda client: client.execute_command("MODULE", "LOAD", "/tmp/x.so"),
    "forget scripts": lambda client: client.script_flush(),
    "stop the clock": lambda client: client.execute_command("DEBUG", "SLEEP", "0"),
}


@pytest.mark.redis
@pytest.mark.parametrize("role", [one.name for one in acl.ROLES])
def test_no_role_may_do_what_its_part_of_the_farm_does_not(
    guarded: GuardedServer, administrator: redis.Redis, role: str
) -> None:
    administrator.set("session:1", "secret")
    allowed, said = [], {}
    with connect(guarded.url_of(role)) as client:
        assert client.ping()
        for what, attempt in FORBIDDEN.items():
            try:
                attempt(client)
            except redis.ResponseError as error:
                said[what] = str(error)
            else:
                allowed.append(what)

    assert allowed == []
    assert all(any(word in text for word in ("permission", "can't", "not allowed")) for text in said.values()), said
    assert administrator.get("session:1") == b"secret"


@pytest.mark.redis
def test_nobody_is_let_in_without_a_password(guarded: GuardedServer) -> None:
    with connect(f"redis://localhost:{guarded.port}/0") as client, pytest.raises(redis.AuthenticationError):
        client.get("vaefarm:budget")


def test_only_operators_read_the_configuration_which_holds_passwords() -> None:
    may = {one.name for one in acl.ROLES if any(name.startswith("config") for name in one.commands)}

    assert may == {"operator"}
    assert not any({"eval", "acl", "client", "config", "script", "keys"} & set(one.commands) for one in acl.ROLES)


def test_every_script_belongs_to_a_role() -> None:
    used = {name for one in acl.ROLES for name in one.scripts}
    shared = {"lib", "begin_one", "devices", "previews", "queue_preview", "requeue"}
    there = {path.stem for path in Path(keys.__file__).parent.joinpath("lua").glob("*.lua")} - shared

    assert used == there
    assert all("redis.call(" not in acl.CALL.sub("", script(name).text) for name in there)
