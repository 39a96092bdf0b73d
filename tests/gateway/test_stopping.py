"""A gateway's process: what it does for its farm, how it ends, and addresses that it cannot have."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import redis
from tests.conftest import eventually

from vaefarm_producer import Farm
from vaefarm_producer.local import up
from vaefarm_shared import leases
from vaefarm_shared.leases import Source, Wanted
from vaefarm_shared.settings import Settings
from vaefarm_shared.workers import publish_worker

LATENTS = np.zeros((1, 4, 8, 8), np.float32)
RAW = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float32"}


class GatewayProcess:
    """`vaefarm gateway` in a process of its own, on a free port."""

    def __init__(self, settings: Settings, log_path: Path, *arguments: str, **env: str) -> None:
        self.log_path = log_path
        environment = os.environ | {"VAEFARM_REDIS_URL": settings.redis_url.get_secret_value(), **env}
        command = [sys.executable, "-m", "vaefarm_producer", "gateway", "--port", "0", *arguments]
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def url(self) -> str:
        """Where it serves, once it does."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("vaefarm gateway serves http://127.0.0.1:"), (line, self.log)
        return line.split()[-1]

    def wait(self) -> int:
        return self.process.wait(60)


Start = Callable[..., GatewayProcess]


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    started: list[GatewayProcess] = []

    def run(*arguments: str, **env: str) -> GatewayProcess:
        started.append(GatewayProcess(settings, tmp_path / f"gateway-{len(started)}.log", *arguments, **env))
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.wait()
        assert one.process.stdout is not None
        one.process.stdout.close()


def says(gateway: GatewayProcess, words: str) -> bool:
    return words in gateway.log


async def in_flight(client: aiohttp.ClientSession, route: str) -> None:
    """Return once the gateway has a request of that route in hand."""
    async with asyncio.timeout(30):
        while True:
            async with client.get("/metrics") as answer:
                if f'vaefarm_http_requests_in_flight{{route="{route}"}} 1.0' in await answer.text():
                    return


async def test_a_gateway_returns_the_jobs_of_a_farm_whose_workers_are_dead_and_counts_their_leases(
    start: Start, farm: Farm, connection: redis.Redis
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    leases.claim(connection, "dead", Wanted([Source("demo", "normal", 0.0, "s")], 1, 1 << 20, 1.0))
    assert [one.queued for one in farm.queues()] == [0]

    url = await asyncio.to_thread(start().url)
    await asyncio.to_thread(eventually, "the job is back", lambda: [one.queued for one in farm.queues()] == [1])

    assert job.status() == "queued"
    async with aiohttp.ClientSession(url) as client, client.get("/metrics") as answer:
        assert 'vaefarm_leases_lost_total{vae="demo"} 1.0' in await answer.text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_long_polls_and_streams_at_once_and_the_process_with_0(
    start: Start, farm: Farm, signum: signal.Signals
) -> None:
    gateway = start(VAEFARM_DRAIN_SECONDS="600")
    job = farm.submit(LATENTS, vae="demo")
    url = await asyncio.to_thread(gateway.url)
    async with aiohttp.ClientSession(url) as client:
        one = await client.get(f"/v1/jobs/{job.id}/events")
        everything = await client.get("/v1/events")
        assert (await one.content.readuntil(b"\n\n")).count(b"queued") == 1
        poll = asyncio.create_task(client.get(f"/v1/jobs/{job.id}", headers={"Prefer": "wait=300"}))
        await in_flight(client, "/v1/jobs/{job_id}")

        gateway.process.send_signal(signum)

        assert await asyncio.to_thread(gateway.wait) == 0
        answer = await poll
        assert (answer.status, (await answer.json())["status"]) == (200, "queued"), "how it stands, as after any wait"
        await one.content.read()
        await everything.content.read()
        for closing in (one, everything, answer):
            closing.close()
    assert "Traceback" not in gateway.log
    assert job.status() == "queued"


async def test_a_signal_answers_a_hugging_face_client_with_503_that_names_its_job(
    start: Start, farm: Farm, connection: redis.Redis
) -> None:
    gateway = start(VAEFARM_DRAIN_SECONDS="600")
    connection.sadd("rq:workers", "rq:worker:listed")
    publish_worker(connection, "listed", {"vaes": {"demo": "r"}, "sizes": {"demo": ["s", "m", "l", "xl"]}})
    url = await asyncio.to_thread(gateway.url)
    query = {"shape": ["1", "4", "8", "8"], "dtype": "float32"}
    async with aiohttp.ClientSession(url) as client:
        headers = {"Content-Type": "tensor/binary", "traceparent": "garbage"}
        post = asyncio.create_task(client.post("/hf/demo", params=query, data=LATENTS.tobytes(), headers=headers))
        await asyncio.to_thread(eventually, "its job is queued", lambda: farm.queues() and farm.queues()[0].queued)
        await in_flight(client, "/hf/{vae}")

        gateway.process.send_signal(signal.SIGTERM)

        async with await post as answer:
            assert (answer.status, "stops" in (await answer.json())["error"]) == (503, True)
            assert farm.job(answer.headers["x-job-id"]).status() == "queued", "another gateway has it"
    assert await asyncio.to_thread(gateway.wait) == 0
    assert "Traceback" not in gateway.log


async def test_a_submit_that_has_begun_is_finished_after_the_signal(start: Start, farm: Farm) -> None:
    gateway = start()
    url = await asyncio.to_thread(gateway.url)
    began = asyncio.Event()

    async def slowly() -> Any:
        body = LATENTS.tobytes()
        yield body[:100]
        await began.wait()
        yield body[100:]

    async with aiohttp.ClientSession(url) as client:
        put = asyncio.create_task(client.put("/v1/jobs/slow", params=RAW, data=slowly()))
        await in_flight(client, "/v1/jobs/{job_id}")
        gateway.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(eventually, "it stops", lambda: "the gateway stops" in gateway.log)
        async with aiohttp.ClientSession(url) as late:
            with pytest.raises(aiohttp.ClientConnectorError):
                await late.get("/health")
        began.set()

        async with await put as answer:
            assert answer.status == 202
    assert await asyncio.to_thread(gateway.wait) == 0
    assert farm.job("slow").status() == "queued"
    assert "Traceback" not in gateway.log


async def test_what_outlasts_the_grace_is_cut_off_and_a_second_signal_waits_for_nothing(start: Start) -> None:
    async def never() -> Any:
        yield b"x"
        await asyncio.Event().wait()

    for grace, signals, status in (("0.5", 1, 0), ("600", 2, 128 + signal.SIGTERM)):
        gateway = start(VAEFARM_DRAIN_SECONDS=grace)
        url = await asyncio.to_thread(gateway.url)
        async with aiohttp.ClientSession(url) as client:
            put = asyncio.create_task(client.put("/v1/jobs/never", params=RAW, data=never()))
            await in_flight(client, "/v1/jobs/{job_id}")
            for _ in range(signals):
                gateway.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(eventually, "it stops", partial(says, gateway, "gateway stops"))
            assert await asyncio.to_thread(gateway.wait) == status
            put.cancel()
        assert "Traceback" not in gateway.log


@pytest.mark.parametrize("host", ["127.0.0.1", "no such host", "a..b", "203.0.113.7"])
def test_an_address_that_cannot_be_had_is_one_line_and_exit_2(start: Start, tmp_path: Path, host: str) -> None:
    # A gateway that others could call needs keys first.
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nname = "web"\nhash = "sha256:{"0" * 64}"\ncreated = 2026-01-01T00:00:00Z\n')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gateway = start("--host", host, "--port", str(taken.getsockname()[1]), VAEFARM_KEYS=str(keys))
        assert gateway.wait() == 2
    lines = [line for line in gateway.log.splitlines() if line]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"vaefarm: the gateway cannot listen on {host}:")


def test_a_gateway_without_its_libraries_says_in_one_line_what_to_install(start: Start, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "itsdangerous.py").write_text("raise ModuleNotFoundError('none', name='itsdangerous')")
    path = os.pathsep.join([str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")])

    gateway = start(PYTHONPATH=path)

    assert gateway.wait() == 2
    assert gateway.log == "vaefarm: the gateway needs itsdangerous: pip install 'vaefarm[gateway]'\n"


def test_up_goes_on_without_a_gateway_where_its_libraries_are_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(up, "find_spec", lambda name: None if name == "aiohttp_sse" else object())
    assert up.gateway_command("127.0.0.1", None) is None
    assert caplog.messages == ["there is no gateway: it needs aiohttp_sse: pip install 'vaefarm[gateway]'"]


def test_up_takes_the_next_port_where_its_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(up, "GATEWAY_PORT", port)
        assert port < up.free_gateway_port() < port + up.GATEWAY_PORTS


def test_json_lines_are_one_object_each_from_the_first_to_the_last(start: Start, farm: Farm) -> None:
    gateway = start("--log-format", "json")
    gateway.url()
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.wait() == 0
    lines = [json.loads(line) for line in gateway.log.splitlines()]
    assert lines
    assert {"time", "level", "logger", "message"} <= lines[-1].keys()
