"""Files are written by as many threads as the machine bears, and a worker says when these are too few."""

import logging
import os
from pathlib import Path
from threading import Event

import pytest
import torch
from tests.conftest import Serve

from vaefarm_producer import Farm
from vaefarm_shared.settings import Settings
from vaefarm_worker import cgroups, host_processors, outbox
from vaefarm_worker.encoders import Encoders, encode_threads

LOGGER = "vaefarm_worker.encoders"


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 24 processors, with a /proc and a /sys/fs/cgroup of the test's own."""
    monkeypatch.setattr(cgroups, "PROC", tmp_path / "proc")
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(24)), raising=False)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    return tmp_path


def limit(linux: Path, line: str, folder: str, **files: str) -> None:
    (linux / "proc" / "self" / "cgroup").write_text(f"{line}\n")
    (linux / "cgroup" / folder).mkdir(parents=True)
    for name, content in files.items():
        (linux / "cgroup" / folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_without_a_quota_a_process_has_the_processors_that_it_is_bound_to(linux: Path) -> None:
    assert host_processors.usable() == 24


@pytest.mark.parametrize(("quota", "processors"), [("max 100000", 24), ("450000 100000", 5), ("50000 100000", 1)])
def test_a_quota_of_cgroups_2_counts_wherever_above_the_process_it_stands(
    linux: Path, quota: str, processors: int
) -> None:
    limit(linux, "0::/farm/worker", "farm", cpu__max=quota)

    assert host_processors.usable() == processors


@pytest.mark.parametrize(("quota", "processors"), [("-1", 24), ("300000", 3)])
def test_a_quota_of_cgroups_1_counts(linux: Path, quota: str, processors: int) -> None:
    limit(linux, "4:cpu,cpuacct:/docker", "cpu/docker", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")

    assert host_processors.usable() == processors


@pytest.mark.parametrize(
    ("quota", "device", "threads"),
    [
        ("max 100000", "cpu", 2),
        ("max 100000", "cuda:0 (NVIDIA H100)", 16),
        ("800000 100000", "cuda:0 (NVIDIA H100)", 7),
        ("800000 100000", "remote", 7),
        ("100000 100000", "mps", 2),
    ],
)
def test_encoders_take_what_the_device_leaves_of_the_processors(
    linux: Path, quota: str, device: str, threads: int
) -> None:
    limit(linux, "0::/", "", cpu__max=quota)

    assert encode_threads(Settings(), device) == threads


@pytest.mark.parametrize("device", ["cpu", "cuda:0 (NVIDIA H100)"])
def test_a_number_that_was_set_stands_as_it_is(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEFARM_ENCODE_THREADS", "5")

    assert encode_threads(Settings.from_env(), device) == 5


def test_jobs_that_wait_for_encoders_are_told_from_those_that_wait_for_the_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoders, go_on = Encoders(Settings(encode_threads=1), "cpu"), Event()
    for _ in range(4):
        encoders.submit(go_on.wait, 60)

    encoders.note_full(held=256)
    stored_slowly = list(caplog.records)
    encoders.note_full(held=5)
    go_on.set()
    encoders.stop()

    assert not stored_slowly
    (told,) = caplog.records
    assert "4 jobs are decoded, and 1 threads write their files" in told.getMessage()


def test_a_worker_whose_device_waits_for_encoders_says_so_once(
    settings: Settings, serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_JOBS", 4)
    latents = [torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(24)]

    with Farm(settings=settings) as farm, caplog.at_level(logging.WARNING, LOGGER):
        jobs = farm.submit_many(latents, vae="demo")
        serve(settings=settings.model_copy(update={"encode_threads": 1, "batch_pixels": 4 * 512 * 512}))
        assert {job.status() for job in jobs} == {"finished"}

    told = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(told) == 1
    assert "VAEFARM_ENCODE_THREADS" in told[0]
