"""`vaefarm vaes`: every VAE is listed; what is pulled is what a worker loads offline, and never a pickle."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from tests.worker.fake_hub import COMMIT, GOOD_TOKEN, FakeHub

from vaefarm_producer.cli import app
from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.cli_errors import run
from vaefarm_shared.errors import ConfigurationError
from vaefarm_worker import pulling, sources
from vaefarm_worker.vaes import describe_vae

MAIN = "from vaefarm_producer.cli import main; main()"

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, tiny_vaes: Path) -> Iterator[FakeHub]:
    """Repositories as they are found: a VAE in a folder, beside pickles of it and of the rest of a pipeline."""
    root = tmp_path / "hub"
    for name in ("whole", "gated", "pickled", "half"):
        vae = root / "someone" / name / "vae"
        shutil.copytree(tiny_vaes / "sd-v1", vae)
        (vae / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
        (vae / "diffusion_pytorch_model.fp16.bin").write_bytes(b"a pickle")
    (root / "someone/whole/unet").mkdir()
    (root / "someone/whole/unet" / WEIGHTS).write_bytes(b"what no VAE needs")
    shutil.copy(root / "someone/half/vae" / WEIGHTS, root / "someone/half/vae/diffusion_pytorch_model.fp16.safetensors")
    (root / "someone/half/vae" / WEIGHTS).unlink()
    (root / "someone/pickled/vae" / WEIGHTS).unlink()
    one = FakeHub(root)
    one.gated.add("someone/gated")
    one.start()
    yield one
    one.stop()


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    """An operator's catalogue of what the hub has, and of what it has not."""
    lines = []
    for vae in ("whole", "gated", "pickled", "half", "nowhere"):
        lines += [
            f"[vaes.{vae}]",
            f'source = "someone/{vae}"',
            'subfolder = "vae"',
            f"gated = {json.dumps(vae == 'gated')}",
        ]
        lines += ['variant = "fp16"'] if vae == "half" else []
    lines += ["[vaes.unborn]", 'source = "someone/whole"', 'revision = "next"', "[vaes.moved]", 'path = "/nowhere"']
    path = tmp_path / "entries.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def environment(hub: FakeHub, entries: Path, tmp_path: Path) -> dict[str, str]:
    """What a command needs to find the hub, and a cache of its own."""
    machines = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "VAEFARM_CATALOGUE": str(entries)}
    return machines | ours | {"OMP_NUM_THREADS": "1"}


def python(code: str, environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a Python of its own: huggingface_hub reads the environment when it is imported."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


def vaes(environment: dict[str, str], *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run `vaefarm vaes`."""
    return python(MAIN, environment | more, "vaes", *arguments)


def printed(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, Any]]:
    """The objects that a command printed, by their ids."""
    return {one["id"]: one for one in map(json.loads, done.stdout.splitlines())}


LOAD = """
import sys, torch
from vaefarm_shared.catalogue import Catalogue
from vaefarm_worker.vaes import describe_vae, read_vae
for vae in sys.argv[2:]:
    loaded = read_vae(describe_vae(Catalogue.load(sys.argv[1])[vae], torch.device("cpu")))
    print(loaded.described.served.revision, next(loaded.module.parameters()).dtype)
"""


def test_what_is_pulled_is_what_a_worker_loads_offline_and_no_pickle_is(
    hub: FakeHub, environment: dict[str, str], entries: Path
) -> None:
    done = vaes(environment, "--pull", "whole", "half")

    assert done.returncode == 0, done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        f"whole: someone/whole/vae at {COMMIT}",
        f"half: someone/half/vae at {COMMIT}",
    ]
    fetched = ["config.json", WEIGHTS, "config.json", "diffusion_pytorch_model.fp16.safetensors"]
    assert [Path(path).name for path in hub.read] == fetched
    assert all("/vae/" in path for path in hub.read)
    shown = printed(vaes(environment, "--json", "whole", "half", "gated"))
    assert [one["present"] for one in shown.values()] == [True, True, False]
    assert (shown["whole"]["class"], shown["gated"]["class"]) == ("AutoencoderKL", None)
    assert shown["whole"]["size_bytes"] == sum(
        (hub.root / "someone/whole/vae" / name).stat().st_size for name in ("config.json", WEIGHTS)
    )

    again = vaes(environment, "--pull", "whole", "--json")
    assert printed(again)["whole"]["commit"] == COMMIT
    assert len(hub.read) == 4, "what is here is not read again"
    loaded = python(LOAD, environment | {"HF_HUB_OFFLINE": "1"}, str(entries), "whole", "half")
    assert loaded.stdout.splitlines() == [f"{COMMIT} torch.float32"] * 2, loaded.stderr


def test_each_vae_that_cannot_be_fetched_is_one_line_and_the_others_are_fetched(
    hub: FakeHub, environment: dict[str, str]
) -> None:
    asked = ("gated", "nowhere", "pickled", "unborn", "moved", "demo", "whole")
    done = vaes(environment, "--pull", "--json", *asked)

    assert done.returncode == 1
    reasons = {vae: one["reason"] for vae, one in printed(done).items()}
    assert reasons == {
        "gated": "VAE 'gated' is gated: accept its licence at https://huggingface.co/someone/gated and set HF_TOKEN",
        "nowhere": "VAE 'nowhere': Hugging Face knows no repository someone/nowhere, or it is private: set HF_TOKEN"
        " then",
        "pickled": f"VAE 'pickled': someone/pickled holds no vae/{WEIGHTS}; expected a VAE saved by diffusers, as"
        " safetensors",
        "unborn": "VAE 'unborn': someone/whole has no revision 'next'; expected a branch, a tag or a commit",
        "moved": "VAE 'moved' is a folder, and cannot be fetched: /nowhere is no folder",
        "demo": "",
        "whole": "",
    }
    assert not [path for path in hub.read if path.endswith(".bin")]
    assert "Traceback" not in done.stderr

    refused = vaes(environment, "--pull", "gated", HF_TOKEN="hf_other")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines()[-1] == f"vaefarm: {reasons['gated']}"
    assert vaes(environment, "--pull", "gated", HF_TOKEN=GOOD_TOKEN).returncode == 0


def test_offline_nothing_is_fetched_and_that_is_said(environment: dict[str, str]) -> None:
    done = vaes(environment, "--pull", "whole", HF_HUB_OFFLINE="1")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "vaefarm: VAE 'whole' is not on this machine, and HF_HUB_OFFLINE forbids to fetch it: unset it\n"
    )


def test_without_a_network_the_last_line_says_so(environment: dict[str, str]) -> None:
    # The library tries six times, and waits longer each time.
    hasty = f"import time; time.sleep = lambda seconds: None; {MAIN}"
    done = python(hasty, environment | {"HF_ENDPOINT": "http://127.0.0.1:1"}, "vaes", "--pull", "whole")

    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("vaefarm: VAE 'whole': vae/config.json of someone/whole was not fetched: ")
    assert "Connection refused" in last
    assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_what_is_complete_and_the_next_pull_fetches_the_rest(
    hub: FakeHub, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.stalling.add(f"vae/{WEIGHTS}")
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "vaes", "--pull", "whole"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert hub.has_stalled.wait(60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == (
        "vaefarm: interrupted; files that are complete stay, the same command fetches the rest"
    )
    assert "Traceback" not in err
    left = printed(vaes(environment, "--json", "whole"))["whole"]
    assert (left["present"], left["reason"]) == (False, f"vae/{WEIGHTS} was not fetched")
    assert not list((tmp_path / "hf").rglob("*.incomplete"))

    hub.stalling.clear()
    assert vaes(environment, "--pull", "whole").returncode == 0
    assert [Path(path).name for path in hub.read] == ["config.json", WEIGHTS, WEIGHTS]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "VAE 'sdxl': no room for config.json of madebyollin/"),
        (PermissionError(errno.EACCES, "Permission denied", "/hf"), "VAE 'sdxl': /hf cannot be written; HF_HOME moves"),
        (
            RuntimeError("data processing error\nmore"),
            "was not fetched: data processing error; what is complete is kept",
        ),
    ],
)
def test_a_disk_that_takes_no_more_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ConfigurationError, match=said) as caught:
        pulling.pull(Catalogue.load()["sdxl"])
    assert "\n" not in str(caught.value)


def test_a_clients_install_lists_vaes_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    assert sources.look_up(Catalogue.load()["sdxl"]) == sources.Presence(None, reason="pip install 'vaefarm[worker]'")
    assert sources.look_up(Catalogue.load()["demo"]).is_present
    with pytest.raises(
        ConfigurationError, match=r"fetching VAEs needs huggingface_hub: pip install 'vaefarm\[worker\]'"
    ):
        pulling.pull(Catalogue.load()["sdxl"])


def test_every_built_in_vae_is_listed_without_torch(environment: dict[str, str]) -> None:
    code = (
        "import sys; from vaefarm_producer.cli import app; from vaefarm_shared.cli_errors import run;"
        "assert run(app) == 0; assert not {'torch', 'diffusers'} & sys.modules.keys(), 'too much is imported'"
    )
    del environment["VAEFARM_CATALOGUE"]
    done = python(code, environment, "vaes", "--json")

    assert done.returncode == 0, done.stderr
    shown = printed(done)
    assert list(shown) == [entry.id for entry in Catalogue.load()]
    assert all(one["contract"] and one["shapes"] and one["submit"] for one in shown.values())
    assert shown["flux"]["submit"] == {
        "spatial": 'farm.submit(latents, vae="flux")',
        "packed": 'farm.submit(latents, vae="flux", height=1024, width=1024)',
    }
    assert {vae: one["present"] for vae, one in shown.items() if one["present"]} == {"demo": True}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """What `vaefarm vaes` prints in this process, with an empty cache, and its exit code."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr("sys.argv", ["vaefarm", "vaes", *arguments])
        capsys.readouterr()
        return run(app), *capsys.readouterr()

    return call


def test_the_table_names_every_vae_and_one_vae_is_shown_in_full(shown: Any, tmp_path: Path) -> None:
    code, table, _ = shown()
    assert code == 0
    assert all(f'"{entry.id}"' in table for entry in Catalogue.load())
    code, one, _ = shown("flux", "demo")
    assert code == 0
    for text in ("black-forest-labs/FLUX.1-schnell", 'vae="flux", height=1024, width=1024', "AutoencoderKL", "yes, "):
        assert text in one

    own = tmp_path / "own.toml"
    own.write_text(f'[vaes.mine]\npath = "{tmp_path}"\nsubfolder = "empty"\n')
    code, one, _ = shown("mine", "--catalogue", str(own))
    assert code == 0
    assert "as its config.json says" in one
    assert "is no folder" in one


BAD_CALLS = [
    (["nosuch"], 2, "VAE 'nosuch' is not known; expected one of auraflow"),
    (["--pull"], 2, "--pull fetches what is named; expected VAE ids, or --all"),
    (["--all"], 2, "--all goes with --pull and without VAE ids"),
    (["--pull", "--all", "sdxl"], 2, "--all goes with --pull and without VAE ids"),
    (["--catalogue", "/nowhere.toml"], 2, "catalogue /nowhere.toml cannot be read"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), BAD_CALLS, ids=lambda value: None)
def test_a_bad_call_says_one_line(shown: Any, arguments: list[str], code: int, said: str) -> None:
    done, out, err = shown(*arguments)

    assert (done, out) == (code, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_all_leaves_out_what_is_gated(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled: list[VaeEntry] = []

    def note(entry: VaeEntry) -> pulling.Pulled:
        pulled.append(entry)
        return pulling.Pulled(COMMIT, 1)

    monkeypatch.setattr("vaefarm_worker.vaes_command.pull", note)
    code, out, _ = shown("--pull", "--all", "--json")

    assert code == 0
    assert {entry.id for entry in pulled} == {e.id for e in Catalogue.load() if not e.gated} - {"demo"}
    assert len(out.splitlines()) == len(pulled) + 1


def test_a_worker_too_names_the_licence_page_of_a_gated_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers hides the error of a gated config.json behind one that says there is no such repository."""

    def refuse(*_: object, **__: object) -> str:
        response: Any = SimpleNamespace(headers={}, request=None)
        raise GatedRepoError("401", response=response)

    monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", refuse)
    with pytest.raises(
        ConfigurationError, match="VAE 'flux2' is gated: accept its licence at https://huggingface.co/black"
    ):
        describe_vae(Catalogue.load()["flux2"], torch.device("cpu"))
