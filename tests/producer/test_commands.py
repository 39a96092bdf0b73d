"""The commands as a user types them: pictures in a folder, one line for each error, no traceback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import RedisServer, Serve, StartWorker, eventually, url_variable

from vaefarm_producer import Farm
from vaefarm_producer.cli import COMMANDS, app
from vaefarm_producer.local.up import GATEWAY_MODULES
from vaefarm_shared.cli_errors import run

LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def vaefarm(
    *arguments: object, url: str | None = None, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from vaefarm_producer.cli import main; main()", *map(str, arguments)]
    environment = os.environ | ({url_variable(url): url} if url else {}) | (env or {})
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    save_file({"latents": LATENTS}, paths[0])
    save_file({"x": torch.cat([LATENTS, -LATENTS])}, paths[1])
    return paths


@pytest.mark.slow
def test_submit_waits_and_saves_each_picture_under_its_files_name(
    server: RedisServer, start_worker: StartWorker, files: list[Path], tmp_path: Path
) -> None:
    start_worker("--decoder", "fake")

    done = vaefarm("submit", *files, "--vae", "demo", "--out", tmp_path / "out", url=server.url)

    assert done.returncode == 0, done.stderr
    names = {Path(line).name for line in done.stdout.splitlines()}
    assert names == {"one.png", "two-0.png", "two-1.png"} == {path.name for path in (tmp_path / "out").iterdir()}
    one, first, second = ((tmp_path / "out" / name).read_bytes() for name in ("one.png", "two-0.png", "two-1.png"))
    assert one == first != second


def test_submit_without_waiting_prints_ids_and_fetch_collects_them(
    farm_url: str, farm: Farm, serve: Serve, files: list[Path], tmp_path: Path
) -> None:
    submitted = vaefarm("submit", *files, "--vae", "demo", "--no-wait", "--format", "jpeg", url=farm_url)
    ids = submitted.stdout.split()
    assert [farm.job(job_id).status().value for job_id in ids] == ["queued", "queued"], submitted.stderr
    serve()

    fetched = vaefarm("fetch", *ids, "--out", tmp_path / "out", "--json", url=farm_url)

    saved = {record["id"]: record["files"] for record in map(json.loads, fetched.stdout.splitlines())}
    assert [len(saved[job_id]) for job_id in ids] == [1, 2]
    assert all(Path(name).read_bytes().startswith(b"\xff\xd8") for names in saved.values() for name in names)


def test_packed_latents_take_their_size_from_metadata(server: RedisServer, farm: Farm, tmp_path: Path) -> None:
    path = tmp_path / "flux.safetensors"
    save_file({"latents": torch.zeros(1, 16, 64)}, path, metadata={"height": "64", "width": "64"})

    done = vaefarm("submit", path, "--vae", "flux", "--no-wait", url=server.url)

    assert farm.job(done.stdout.strip()).record().vae == "flux", done.stderr


def test_status_shows_the_farm_and_a_job(farm_url: str, farm: Farm, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo", metadata={"prompt": "a cat"})
    serve()

    whole = json.loads(vaefarm("status", "--json", url=farm_url).stdout)
    one = json.loads(vaefarm("status", job.id, "--json", url=farm_url).stdout)
    table = vaefarm("status", job.id, url=farm_url).stdout

    as_ever = {
        "queues": {"vaefarm.demo.normal.s.default": 0},
        "workers": [],
        "paused": [],
        "quarantined": [],
        "spooled": 0,
    }
    assert whole.items() >= as_ever.items()
    assert (one["status"], one["metadata"], one["report"]["worker"]) == ("finished", {"prompt": "a cat"}, "here")
    assert "64x64 png" in table


def test_cancel_ends_a_waiting_job(server: RedisServer, farm: Farm) -> None:
    job = farm.submit(LATENTS, vae="demo")

    assert "canceled" in vaefarm("cancel", job.id, url=server.url).stdout
    assert job.status() == "canceled"


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


BAD_CALLS = [
    (["submit", "{good}", "--vae", "sd4"], 2, "VAE 'sd4' is not known; expected one of auraflow"),
    (["submit", "{good}", "--vae", "flux"], 2, "one.safetensors: latents of shape (1, 4, 8, 8) have 4 channels"),
    (["submit", "{missing}", "--vae", "demo"], 2, "cannot be read: No such file"),
    (["submit", "{garbage}", "--vae", "demo"], 2, "no safetensors file"),
    (["submit", "{truncated}", "--vae", "demo"], 2, "no complete safetensors file"),
    (["submit", "{good}", "{garbage}", "--vae", "demo"], 2, "no safetensors file"),
    (["submit", "{good}", "--vae", "demo", "--format", "gif"], 2, "expected one of png, jpeg, webp"),
    (["submit", "{good}", "--vae", "demo", "--out", "{good}"], 2, "expected a folder"),
    (["status", "no-such-job"], 1, "'no-such-job' is not known"),
    (["status", "a b"], 2, "job id 'a b' is not allowed"),
    (["worker", "--vaes", "sd4"], 2, "VAE 'sd4' is not known"),
    (["worker", "--vaes", ","], 2, "names no VAE"),
    (["worker", "--vaes", "demo", "--decoder", "magic"], 2, "expected local or fake"),
    (["worker", "--vaes", "demo", "--device", "cuda:77"], 2, "--device cuda:77: torch "),
    (["worker", "--vaes", "sdxl"], 2, "VAE 'sdxl' (madebyollin/sdxl-vae-fp16-fix) cannot be loaded"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), BAD_CALLS, ids=lambda value: None)
def test_a_bad_call_says_one_line_and_queues_nothing(
    server: RedisServer, farm: Farm, files: list[Path], tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    places = {
        "good": files[0],
        "missing": tmp_path / "missing",
        "garbage": write(tmp_path / "garbage", b"\x80\x04."),
        "truncated": write(tmp_path / "truncated", files[0].read_bytes()[:-10]),
    }
    done = vaefarm(*(part.format(**places) for part in arguments), url=server.url, env={"HF_HUB_OFFLINE": "1"})

    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert said in lines[-1]
    assert "Traceback" not in done.stderr
    if arguments[0] != "worker":
        assert len(lines) == 1
    assert sum(queue.queued for queue in farm.queues()) == 0


@pytest.mark.parametrize("command", [["status"], ["submit", "{good}", "--vae", "demo"], ["fetch", "a"]])
def test_an_unreachable_redis_is_one_line_with_its_address(files: list[Path], command: list[str]) -> None:
    done = vaefarm(*(part.format(good=files[0]) for part in command), url="redis://me:secret@127.0.0.1:1/0")

    assert done.returncode == 1
    assert "Redis at redis://127.0.0.1:1/0 is not reachable" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "secret" not in done.stderr


def test_a_failed_job_is_named_and_the_exit_code_is_1(
    server: RedisServer, farm: Farm, files: list[Path], tmp_path: Path
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    job.cancel()

    done = vaefarm("fetch", job.id, "--out", tmp_path, url=server.url)

    assert done.returncode == 1
    assert f"job '{job.id}' was canceled" in done.stderr


@pytest.mark.slow
def test_up_runs_a_farm_until_ctrl_c_and_keeps_its_data(tmp_path: Path) -> None:
    def start() -> "subprocess.Popen[str]":
        code = "from vaefarm_producer.cli import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", code, "up", "--data", str(tmp_path / "data"), "--device", "cpu"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def exported(process: "subprocess.Popen[str]") -> dict[str, str]:
        assert process.stdout is not None
        found: dict[str, str] = {}
        while len(found) < 2:
            line = process.stdout.readline()
            assert line, "it ended"
            if line.strip().startswith("export"):
                name, _, value = line.strip().removeprefix("export ").partition("=")
                found[name] = value
        return found

    latents = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    addresses = []
    for _ in range(2):
        process = start()
        try:
            environment = exported(process)
            addresses.append(environment["VAEFARM_REDIS_URL"])
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                with Farm.from_env() as farm:
                    result = farm.submit(latents, vae="demo", job_id="kept").result(timeout=90)
                    assert result.report.images[0].blob.startswith("file:"), "pictures above 64 KiB lie in the folder"
                    assert result.record.attempts == 1
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert process.stdout is not None
            process.stdout.close()
    assert addresses[0] == addresses[1], "producers keep the address they know"


@pytest.mark.slow
def test_the_demo_makes_pictures_that_resemble_the_photographs(tmp_path: Path) -> None:
    done = vaefarm("demo", "--out", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert "12 jobs in" in done.stdout
    pictures = [path for path in (tmp_path / "out").glob("*.png") if path.name != "contact_sheet.png"]
    assert len(pictures) == 12
    assert (tmp_path / "out" / "contact_sheet.png").exists()
    mean = float(done.stdout.partition("mean PSNR ")[2].split()[0])
    assert mean > 24.0


def test_help_names_every_command_and_each_has_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["vaefarm", *arguments, "--help"])
        assert run(app) == 0
        return capsys.readouterr().out

    overview = shown()
    for name in COMMANDS:
        assert f" {name} " in overview
        assert f"vaefarm {name} [OPTIONS]" in shown(name)


def test_the_redis_that_up_starts_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from vaefarm_producer.local.redis_server import LocalRedis\n"
        "with LocalRedis(Path(sys.argv[1]), durable=False) as server: print(server.url, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()

    process.kill()
    process.wait()
    process.stdout.close()

    eventually("Redis has ended", lambda: vaefarm("status", url=url).returncode == 1)


def test_a_clients_install_shows_its_help_and_says_what_a_gateway_and_its_keys_need(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {GATEWAY_MODULES!r}: raise ModuleNotFoundError(f'No module named {{name}}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from vaefarm_producer.cli import main; main()"
    )

    def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    assert bare("--help").returncode == 0
    for arguments in (["gateway"], ["keys", "list"], ["keys", "add", "web", "--file", "keys.toml"]):
        refused = bare(*arguments)
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert "pip install 'vaefarm[gateway]'" in line
