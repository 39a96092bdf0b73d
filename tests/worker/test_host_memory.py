"""The machine's memory is read as Linux tells it, within what a container allows."""

from pathlib import Path

import pytest

from vaefarm_worker import cgroups, host_memory

MEMINFO = "MemTotal:       8000 kB\nMemFree:  10 kB\nMemAvailable:   6000 kB\n"


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc and a /sys/fs/cgroup of the test's own."""
    monkeypatch.setattr(cgroups, "PROC", tmp_path / "proc")
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    return tmp_path


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def test_without_cgroups_it_is_what_the_kernel_has(linux: Path) -> None:
    assert (host_memory.free_bytes(), host_memory.total_bytes()) == (6000 * 1024, 8000 * 1024)


def test_a_limit_of_cgroups_2_counts_wherever_above_the_process_it_stands(linux: Path) -> None:
    (linux / "proc" / "self" / "cgroup").write_text("0::/farm/worker\n")
    group(linux / "cgroup" / "farm" / "worker", {"memory.max": "max", "memory.current": 5, "memory.stat": "anon 5"})
    limits = {"memory.max": 4_000_000, "memory.current": 1_500_000, "memory.stat": "anon 1\ninactive_file 500000"}
    group(linux / "cgroup" / "farm", limits)

    assert (host_memory.free_bytes(), host_memory.total_bytes()) == (3_000_000, 4_000_000)


def test_a_limit_of_cgroups_1_counts_as_a_container_sees_it(linux: Path) -> None:
    (linux / "proc" / "self" / "cgroup").write_text("9:name=systemd:/\n4:memory:/docker/abc\n0::/\n")
    limits = {"memory.limit_in_bytes": 2_000_000, "memory.usage_in_bytes": 2_500_000, "memory.stat": "cache 0"}
    group(linux / "cgroup" / "memory", limits)

    assert (host_memory.free_bytes(), host_memory.total_bytes()) == (0, 2_000_000)


def test_a_limit_beyond_the_machine_changes_nothing(linux: Path) -> None:
    (linux / "proc" / "self" / "cgroup").write_text("0::/\n")
    group(linux / "cgroup", {"memory.max": 2**63 - 4096, "memory.current": 7, "memory.stat": "inactive_file 0"})

    assert (host_memory.free_bytes(), host_memory.total_bytes()) == (6000 * 1024, 8000 * 1024)


def test_a_system_that_does_not_tell_is_not_guessed_at(linux: Path) -> None:
    (linux / "proc" / "meminfo").unlink()

    assert host_memory.free_bytes() is host_memory.total_bytes() is None
