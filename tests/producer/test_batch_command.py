"""`vaefarm submit DIR --resume`: a batch that is interrupted, resumed, and told of, over each transport."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from safetensors.numpy import save_file
from tests.conftest import Work, eventually, url_variable
from tests.producer.conftest import Call

from vaefarm_producer import Farm, InvalidOption, batch_progress
from vaefarm_producer.batch_progress import BatchProgress
from vaefarm_producer.batch_run import no_worker
from vaefarm_producer.manifest import Manifest
from vaefarm_shared.settings import Settings

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)

#: The command, to which Ctrl-C means what it means in a terminal, whatever the tests were started with.
COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    " from vaefarm_producer.cli import main; main()"
)


@pytest.fixture
def farm(farm_settings: Settings) -> Iterator[Farm]:
    """A farm over Redis, and over a gateway."""
    with Farm(settings=farm_settings) as one:
        yield one


def write(folder: Path, count: int, **metadata: str) -> Path:
    """A folder of latents, no two the same, of which every tenth lies in a folder of its own."""
    for n in range(count):
        path = folder / ("tenth" if n % 10 == 0 else ".") / f"{n:03d}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"latents": LATENTS + n}, path, metadata={"seed": str(n), "prompt": "a cat", **metadata})
    return folder


def entries(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def pictures(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.suffix != ".jsonl")


def expected(count: int) -> list[str]:
    return sorted(f"tenth/{n:03d}.png" if n % 10 == 0 else f"{n:03d}.png" for n in range(count))


@pytest.mark.slow
def test_a_batch_that_ctrl_c_or_a_crash_ended_goes_on_and_no_picture_is_decoded_twice(
    farm_url: str, settings: Settings, connection: redis.Redis, work: Work, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "latents", 200), tmp_path / "out"
    # Four at a time: some are always under way.
    decoder = work(settings=settings.model_copy(update={"batch_pixels": 4 * 64 * 64}))
    arguments = ["submit", source, "--vae", "demo", "--out", out, "--resume", "--window", "16"]
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    environment = os.environ | {url_variable(farm_url): farm_url}

    for want, signum in ((40, signal.SIGINT), (90, signal.SIGINT), (140, signal.SIGKILL)):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        eventually("pictures come", lambda: len(pictures(out)) >= want)  # noqa: B023
        process.send_signal(signum)
        _, said = process.communicate(timeout=60)
        assert want <= len(pictures(out)) < 200
        if signum == signal.SIGINT:
            assert process.returncode == 130, said
            assert "jobs under way stay queued: the same command with --resume" in said
            assert set(pictures(out)) < set(expected(200)), "no half picture"
            assert len(entries(out)) == len(pictures(out))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert pictures(out) == expected(200)
    assert len(decoder.decoded) == 200
    assert len(set(decoder.decoded)) == 200, "no picture was decoded twice"
    told = entries(out)
    assert Counter(entry["output"] for entry in told) == Counter(expected(200))
    assert sum(entry["status"] == "present" for entry in told) <= 4, "what a crash left without its line"
    for entry in told:
        if entry["status"] == "finished":
            assert entry["file"].endswith(f"{int(entry['seed']):03d}.safetensors")
            assert (entry["prompt"], entry["metadata"]["prompt"]) == ("a cat", "a cat")
            assert entry["seconds"] > 0
            assert entry["id"] in decoder.decoded
    # But what the crash left, to the end of its life.
    eventually("nothing is left", lambda: len(list(connection.scan_iter("vaefarm:image:*"))) <= 4)


def test_a_second_run_decodes_nothing_and_a_lost_manifest_is_written_anew(
    vaefarm: Call, farm_url: str, work: Work, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "latents", 12), tmp_path / "out"
    decoder = work()
    call = ("submit", source, "--vae", "demo", "--out", out, "--resume")

    first = vaefarm(*call, url=farm_url)
    second = vaefarm(*call, url=farm_url)
    (out / "manifest.jsonl").unlink()
    (out / "001.png").write_bytes(b"")
    third = vaefarm(*call, url=farm_url)

    assert [done.returncode for done in (first, second, third)] == [0, 0, 0], first.stderr
    assert first.stdout.startswith(f"12 files decoded into {out}, 0 failed")
    assert second.stdout.startswith(f"0 files decoded into {out}, 12 were there, 0 failed")
    assert third.stdout.startswith(f"1 files decoded into {out}, 11 were there, 0 failed"), "one was empty"
    assert len(decoder.decoded) == 13
    assert Counter(entry["status"] for entry in entries(out)) == {"present": 11, "finished": 1}
    assert (out / "001.png").stat().st_size > 0


def test_other_options_make_a_picture_anew_and_without_resume_all_are(
    vaefarm: Call, server: Any, work: Work, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "latents", 3), tmp_path / "out"
    decoder = work()
    call = ("submit", source, "--vae", "demo", "--out", out, "--format", "jpeg")

    vaefarm(*call, "--resume", "--quality", "50", url=server.url)
    small = (out / "001.jpg").stat().st_size
    vaefarm(*call, "--resume", "--quality", "95", url=server.url)
    assert (out / "001.jpg").stat().st_size > small
    assert len(decoder.decoded) == 6

    vaefarm(*call, "--resume", "--quality", "95", "--priority", "low", "--producer", "overnight", url=server.url)
    assert len(decoder.decoded) == 6, "for whom and when a picture is made changes nothing of it"

    done = vaefarm(*call, "--quality", "95", url=server.url)
    assert len(decoder.decoded) == 9
    assert "3 files are done in" in done.stderr


def test_one_that_fails_among_many_is_named_at_the_end_and_tried_again_by_resume(
    vaefarm: Call, farm_url: str, work: Work, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "latents", 20), tmp_path / "out"
    bad = source / "005.safetensors"
    held = LATENTS.copy()
    held.flat[0] = 7
    save_file({"latents": held}, bad, metadata={"seed": "5"})
    decoder = work()
    call = ("submit", source, "--vae", "demo", "--out", out, "--resume")

    for done in (vaefarm(*call, url=farm_url), vaefarm(*call, url=farm_url)):
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"vaefarm: {bad}: job ")
        assert "the kernel did not like it" in line

    assert pictures(out) == [name for name in expected(20) if name != "005.png"]
    assert len(decoder.decoded) == 19
    failed = [entry for entry in entries(out) if entry["status"] == "failed"]
    assert [(entry["file"], entry["output"], entry["seed"]) for entry in failed] == [(str(bad), None, "5")] * 2
    assert "the kernel did not like it" in failed[0]["error"]
    assert failed[0]["id"] == failed[1]["id"], "the same job"


def test_files_that_are_no_latents_are_told_at_once_and_the_others_are_decoded(
    vaefarm: Call, farm_url: str, work: Work, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "latents", 5), tmp_path / "out"
    (source / "garbage.safetensors").write_bytes(b"\x80\x04.")
    (source / "cut.safetensors").write_bytes((source / "001.safetensors").read_bytes()[:-10])
    save_file({"latents": np.zeros((1, 16, 8, 8), np.float32)}, source / "wrong.safetensors")
    save_file({"latents": np.full((1, 4, 8, 8), np.nan, np.float32)}, source / "nan.safetensors")
    decoder = work()

    done = vaefarm("submit", source, "--vae", "demo", "--out", out, "--resume", "--json", url=farm_url)

    first, *rest = done.stderr.splitlines()
    assert done.returncode == 1
    assert "3 of 9 files are left out, for the first " in first
    assert [Path(line.split(": ")[1]).name for line in rest] == [
        "cut.safetensors",
        "garbage.safetensors",
        "wrong.safetensors",
        "nan.safetensors",
    ]
    assert pictures(out) == expected(5)
    assert len(decoder.decoded) == 5
    head, *told, foot = map(json.loads, done.stdout.splitlines())
    assert head == {"total": 9, "present": 0, "refused": 3}
    assert Counter(entry["status"] for entry in told) == {"finished": 5, "refused": 4}
    assert (foot["decoded"], foot["present"], foot["failed"]) == (5, 0, 4)


def test_nothing_is_queued_where_no_file_can_be_decoded(vaefarm: Call, server: Any, farm: Farm, tmp_path: Path) -> None:
    source = write(tmp_path / "latents", 3)

    done = vaefarm("submit", source, "--vae", "flux", "--out", tmp_path / "out", url=server.url)

    assert done.returncode == 2
    assert "have 4 channels" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sum(queue.queued for queue in farm.queues()) == 0


BAD: list[tuple[list[str], str]] = [
    (["--name", "picture.{ext}"], "4 pictures would overwrite one another, or the latents: "),
    (["--name", "{stem}/../../{seed}.{ext}"], "leads out of the folder"),
    (["--name", "{model}.{ext}"], "5 pictures cannot be named: "),
    (["--name", "manifest.jsonl"], "the manifest and "),
    (["--name", "{prompt}.{ext}"], "prompt='../up' has characters that no file name may have"),
    (["--window", "0"], "Invalid value for '--window'"),
    (["--no-wait"], "--no-wait is for files"),
    (["--vae", "sd4"], "VAE 'sd4' is not known"),
    (["--priority", "urgent"], "priority='urgent'"),
    (["--output-type", "pt", "--out", "{source}"], "holds latents"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=lambda value: None)
def test_a_bad_call_is_one_line_and_queues_nothing(
    vaefarm: Call, server: Any, farm: Farm, tmp_path: Path, arguments: list[str], said: str
) -> None:
    source = write(tmp_path / "latents", 5, prompt="../up")
    given = [argument.replace("{source}", str(source)) for argument in arguments]

    done = vaefarm("submit", source, "--vae", "demo", "--out", tmp_path / "out", *given, url=server.url)

    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sum(queue.queued for queue in farm.queues()) == 0
    assert not [path for path in tmp_path.rglob("*") if path.suffix not in (".safetensors", ".jsonl", "")]


def test_names_are_by_the_template_and_files_may_be_given_one_by_one(
    vaefarm: Call, server: Any, work: Work, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "latents", 5), tmp_path / "latents" / "out"
    save_file({"latents": np.concatenate([LATENTS, -LATENTS])}, source / "two.safetensors", metadata={"seed": "x"})
    work()
    files = sorted(source.glob("*.safetensors"))

    done = vaefarm("submit", *files, "--vae", "demo", "--out", out, "--name", "{stem}_{seed}.{ext}", url=server.url)
    assert done.returncode == 0, done.stderr
    assert pictures(out) == [*(f"{n:03d}_{n}.png" for n in range(1, 5)), "two_x-0.png", "two_x-1.png"]

    done = vaefarm("submit", source, "--vae", "demo", "--out", out, "--output-type", "pt", url=server.url)
    again = vaefarm("submit", source, "--vae", "demo", "--out", out, "--output-type", "pt", "--resume", url=server.url)
    assert again.stdout.startswith(f"0 files decoded into {out}, 6 were there"), "what is in --out is no source"


def test_a_folder_has_one_batch_at_a_time_and_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    line = '{"output": "a.png", "status": "finished", "options": "1"}\n'
    (tmp_path / "manifest.jsonl").write_text(line + line.replace("a.png", "b.png")[:-9])

    with Manifest(tmp_path) as manifest:
        assert manifest.made == {"a.png": "1"}
        with pytest.raises(InvalidOption, match="another vaefarm submit writes into"):
            Manifest(tmp_path)
        manifest.append([{"output": "c.png", "status": "finished", "options": "2"}])

    with Manifest(tmp_path) as manifest:
        assert manifest.made == {"a.png": "1", "c.png": "2"}


@pytest.mark.parametrize("is_batch", [True, False])
def test_a_terminal_shows_a_bar_and_a_pipe_gets_nothing_of_it(
    server: Any, work: Work, tmp_path: Path, is_batch: bool
) -> None:
    source = write(tmp_path / "latents", 5)
    work()
    files = [source] if is_batch else sorted(source.rglob("*.safetensors"))
    arguments = ["submit", *files, "--vae", "demo", "--out", tmp_path / "out", "--json"]
    ours, theirs = pty.openpty()
    environment = os.environ | {"VAEFARM_REDIS_URL": server.url, "TERM": "xterm", "COLUMNS": "120"}

    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
        timeout=60,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)

    assert "5/5" in shown
    told = [json.loads(line) for line in done.stdout.splitlines()]
    if is_batch:
        assert "/s, 0:00:00 left" in shown
        assert [one.get("status") for one in told] == [None, *["finished"] * 5, None]
    else:
        assert [len(one["files"]) for one in told] == [1] * 5


def test_a_batch_that_waits_says_how_far_it_is_and_that_no_worker_serves_its_vae(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch_progress, "LINE_SECONDS", 0.01)
    said = ""
    with BatchProgress(1000, 7, False, partial(no_worker, farm, "sdxl")):
        deadline = time.monotonic() + 20
        while said.count("7 of 1000, 0.0/s") < 2 and time.monotonic() < deadline:
            said += capsys.readouterr().err
    assert "vaefarm: no worker serves sdxl, so the jobs wait for one: vaefarm worker --vaes sdxl\n" in said
    assert said.count("no worker") == 1


def test_nothing_is_wondered_where_a_worker_serves_the_vae(farm: Farm, work: Work) -> None:
    work()
    eventually("the worker tells of itself", farm.workers)

    assert no_worker(farm, "demo") is None
