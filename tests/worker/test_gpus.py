"""The GPUs that a process may use, by what nvidia-smi prints and CUDA_VISIBLE_DEVICES says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vaefarm_shared.errors import ConfigurationError
from vaefarm_worker import gpus
from vaefarm_worker.gpus import find_gpus, read_listing, visible

#: As `nvidia-smi -L` of a machine with three GPUs, the second of which is divided in two.
LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb2222-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc3333-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-bbbb2222-0000-0000-0000-000000000000/2/0)
GPU 2: NVIDIA GeForce RTX 4090 (UUID: GPU-aaaa4444-0000-0000-0000-000000000000)
"""

ZEROS = "-0000-0000-0000-000000000000"
FIRST, THIRD = f"GPU-aaaa1111{ZEROS}", f"GPU-aaaa4444{ZEROS}"
PARTS = [f"MIG-cccc3333{ZEROS}", f"MIG-GPU-bbbb2222{ZEROS}/2/0"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, [FIRST, *PARTS, THIRD]),
        ("2,0", [THIRD, FIRST]),
        ("1", PARTS),
        ("GPU-aaaa4,GPU-aaaa1", [THIRD, FIRST]),
        ("GPU-bbbb2222", PARTS),
        ("MIG-cccc3333", PARTS[:1]),
        (f"{PARTS[1]},{PARTS[0]}", [PARTS[1], PARTS[0]]),
        ("0,7,2", [FIRST]),
        ("GPU-aaaa", []),
        ("0,0", [FIRST]),
        ("-1", []),
        ("", []),
    ],
)
def test_cuda_visible_devices_picks_gpus_and_parts_as_cuda_does(wanted: str | None, found: list[str]) -> None:
    assert visible(read_listing(LISTING), wanted) == found


def nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of that name first on the PATH."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv(gpus.VISIBLE, raising=False)


def test_gpus_are_found_by_asking_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, f"[ $1 = -L ] && cat <<'END'\n{LISTING}END", monkeypatch)
    assert find_gpus() == [FIRST, *PARTS, THIRD]

    monkeypatch.setenv(gpus.VISIBLE, "2")
    assert find_gpus() == [THIRD]


def test_a_machine_without_the_driver_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed because it could not reach the driver.'; exit 9", monkeypatch)
    assert find_gpus() == []

    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find_gpus() == []


def test_a_driver_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "exec sleep 60", monkeypatch)
    monkeypatch.setattr(gpus, "LIST_SECONDS", 0.2)

    with pytest.raises(ConfigurationError, match="the driver hangs"):
        find_gpus()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_that_was_taken_is_the_only_one_that_torch_knows_and_calls_itself_so() -> None:
    code = (
        "import torch; from vaefarm_worker.gpus import gpu_id, take_gpu\n"
        "name, taken = take_gpu(lambda listed: listed[-1])\n"
        "print(name, torch.cuda.device_count(), taken == gpu_id(torch.device(name)), taken)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    name, count, agrees, taken = done.stdout.split()
    assert (name, count) == ("cuda:0", "1")
    assert agrees == "True" or taken.startswith("MIG-")
