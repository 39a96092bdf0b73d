"""Forwarding workers as users start them: by the command, in processes that may die."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from tests.chaos.crew import Crew
from tests.conftest import StartWorker, eventually
from tests.worker.remote.bad_endpoint import BadEndpoint, Hangs, Well
from typer.testing import CliRunner

from vaefarm_producer import Farm
from vaefarm_producer.cli import app
from vaefarm_shared.settings import Settings

pytestmark = pytest.mark.slow

TOKEN = "hf_tokenthatnobodymaysee"


def latents(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 1, 4, 8, 8, generator=torch.Generator().manual_seed(8)))


def without_torch(tmp_path: Path) -> str:
    """A folder that hides torch and diffusers from whoever has it first on its path."""
    for name in ("torch", "diffusers"):
        folder = tmp_path / "hidden" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"raise ModuleNotFoundError('no {name}', name='{name}')\n")
    return str(tmp_path / "hidden")


def test_a_worker_without_torch_forwards_and_its_token_is_nowhere_to_be_seen(
    farm: Farm, endpoint: BadEndpoint, start_worker: StartWorker, settings: Settings, connection: Any, tmp_path: Path
) -> None:
    path = os.pathsep.join([without_torch(tmp_path), os.environ.get("PYTHONPATH", "")])
    worker = start_worker(
        *("--remote", f"demo={endpoint.url}?deployment=hidden-{TOKEN}", "--verbose"),
        vaes=None,
        env={"PYTHONPATH": path, "VAEFARM_REMOTE_TOKEN": TOKEN},
    )
    endpoint.behave(Hangs())
    jobs = farm.submit_many(latents(3), vae="demo")
    assert {job.wait(timeout=60) for job in jobs[1:]} == {"finished"}
    assert endpoint.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert ("deployment", f"hidden-{TOKEN}") in endpoint.asked[0].query
    jobs[0].cancel()

    eventually("it is told", lambda: farm.endpoints()[0].succeeded >= 2)
    shown = CliRunner().invoke(app, ["endpoints", "--json", "--redis", settings.redis_url.get_secret_value()])
    assert json.loads(shown.stdout.splitlines()[0])["vae"] == "demo"
    everything = [shown.stdout, worker.log, *(str(job.record()) for job in jobs)]
    everything += [str(farm.workers()), str(farm.endpoints()), *map(str, dump(connection))]
    assert not [text for text in everything if TOKEN in text]


def dump(connection: "redis.Redis") -> list[object]:
    """Everything that Redis holds, but for pictures."""
    found: list[object] = []
    for key in connection.scan_iter():
        kind = connection.type(key)
        found.append(connection.hgetall(key) if kind == b"hash" else connection.get(key) if kind == b"string" else key)
    return found


def test_the_jobs_of_a_forwarding_worker_that_is_killed_go_to_another_at_once_and_cost_nothing(
    farm: Farm, endpoint: BadEndpoint, start_worker: StartWorker
) -> None:
    endpoint.behave(*[Hangs()] * 8)
    worker = start_worker("--remote", f"demo={endpoint.url}", vaes=None)
    jobs = farm.submit_many(latents(8), vae="demo")
    eventually("they are out", lambda: endpoint.requests == 8)
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait()
    start_worker("--remote", f"demo={endpoint.url}", vaes=None)
    assert {job.wait(timeout=60) for job in jobs} == {"finished"}
    assert {job.record().attempts for job in jobs} == {1}


def test_a_worker_whose_endpoint_takes_longer_than_a_decode_may_does_not_hang(
    farm: Farm, endpoint: BadEndpoint, start_worker: StartWorker
) -> None:
    endpoint.behave(then=Well(seconds=5.0))
    worker = start_worker("--remote", f"demo={endpoint.url}", vaes=None, env={"VAEFARM_DECODE_TIMEOUT": "1"})
    jobs = farm.submit_many(latents(3), vae="demo")
    assert {job.wait(timeout=60) for job in jobs} == {"finished"}
    assert worker.process.poll() is None
    assert endpoint.requests == 3


def test_a_worker_that_lost_its_device_is_not_ended_for_the_decode_that_broke_it(
    farm: Farm, endpoint: BadEndpoint, settings: Settings, tmp_path: Path
) -> None:
    crew = Crew(settings, tmp_path)
    try:
        forwarding = ("--faulty-after", "1", "--remote", f"demo={endpoint.url}")
        worker = crew.start(*forwarding, env={"VAEFARM_DECODE_TIMEOUT": "1"})
        # The device decodes the first, and breaks with the second.
        for one in latents(2):
            assert farm.submit(one, vae="demo").wait(timeout=60) == "finished"
        eventually("its device is lost", lambda: any(one.get("device_fault") for one in farm.workers()))
        endpoint.behave(then=Well(seconds=4.0))
        assert farm.submit(latents(3)[2], vae="demo").wait(timeout=60) == "finished"
        assert worker.is_alive, worker.log
        assert "hangs" not in worker.log
    finally:
        crew.close()


def test_what_is_wrong_with_an_endpoint_is_one_line_and_nothing_is_started(
    start_worker: StartWorker,
) -> None:
    worker = start_worker("--remote", "demo=http://farm.example/hf/demo", vaes=None, wait=False)
    assert worker.process.wait(60) == 2
    assert "endpoint http://farm.example/hf/demo of VAE 'demo' would be sent" in worker.log
    assert "Traceback" not in worker.log


def test_a_farm_of_this_machine_decodes_at_its_endpoint(endpoint: BadEndpoint) -> None:
    code = "from vaefarm_producer.cli import main; main()"
    command = [sys.executable, "-c", code, "up", "--no-gateway", "--remote", f"demo={endpoint.url}?key=hidden"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
        try:
            assert up.stdout is not None
            line = next(line for line in up.stdout if "VAEFARM_REDIS_URL=" in line)
            with Farm(line.partition("VAEFARM_REDIS_URL=")[2].strip()) as farm:
                job = farm.submit(latents(1)[0], vae="demo")
                assert job.wait(timeout=60) == "finished"
                (worker,) = farm.workers()
            assert "hidden" not in str(worker)
            assert b"hidden" not in Path(f"/proc/{worker['pid']}/cmdline").read_bytes()
            up.send_signal(signal.SIGINT)
            up.stdout.read()
            assert up.wait(60) == 0
        finally:
            up.kill()
