"""A CPU decodes in the dtype that the operator names, with no more threads than its cgroup lets it have."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.worker.items import decode, randn

from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.errors import ConfigurationError
from vaefarm_worker import cgroups
from vaefarm_worker.bench.plan import Plan
from vaefarm_worker.bench.session import Session
from vaefarm_worker.decoders import make_decoder
from vaefarm_worker.fast.cpu import multiplies_bfloat16, on_cpu
from vaefarm_worker.fast.threads import use_quota


@pytest.fixture
def entries(catalogue: Path) -> list[VaeEntry]:
    return [Catalogue.load(catalogue)["sd-v1"]]


@pytest.fixture
def threads() -> Iterator[None]:
    """Eight threads of torch's, and what there were before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def test_what_a_cpu_decodes_in_is_the_entrys_own_unless_a_dtype_is_named(entries: list[VaeEntry]) -> None:
    own = make_decoder("local", entries, "cpu")
    narrow = make_decoder("local", entries, "cpu", cpu_dtype="bfloat16")

    assert decode(own, "sd-v1", randn(1, 4, 8, 8)).dtype == "float32"
    assert decode(narrow, "sd-v1", randn(1, 4, 8, 8)).dtype == "bfloat16"


@pytest.mark.parametrize(("multiplies", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_on_processors_that_multiply_it(
    entries: list[VaeEntry], monkeypatch: pytest.MonkeyPatch, multiplies: bool, dtype: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplies)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    assert [entry.cpu_dtype for entry in on_cpu(entries, "auto")] == [dtype]


def test_what_this_processor_multiplies_is_what_linux_says_of_it() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "flags" not in flags:
        pytest.skip("no x86 Linux")

    assert multiplies_bfloat16() == any(f" {name}" in flags for name in ("avx512_bf16", "amx_tile"))


def test_a_dtype_that_a_cpu_does_not_decode_in_is_named(entries: list[VaeEntry]) -> None:
    with pytest.raises(ConfigurationError, match="--cpu-dtype 'int8' is not known; expected auto, float32, bfloat16"):
        on_cpu(entries, "int8")


def give_quota(folder: Path, quota: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process in a container that may use so much of a machine with 24 processors."""
    monkeypatch.setattr(cgroups, "PROC", folder / "proc")
    monkeypatch.setattr(cgroups, "CGROUPS", folder / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(24)), raising=False)
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "cgroup" / "farm").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text("0::/farm/worker\n")
    (folder / "cgroup" / "farm" / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(
    ("quota", "environment", "expected"),
    [("250000 100000", None, 3), ("max 100000", None, 8), ("100000 100000", "8", 8)],
)
def test_torch_has_as_many_threads_as_the_quota_unless_the_operator_says_how_many(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: None,
    quota: str,
    environment: str | None,
    expected: int,
) -> None:
    give_quota(tmp_path, quota, monkeypatch)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)

    use_quota()

    assert torch.get_num_threads() == expected


def test_bench_measures_with_as_many_threads_as_a_worker_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: None, catalogue: Path
) -> None:
    give_quota(tmp_path, "250000 100000", monkeypatch)

    session = Session.of(Catalogue.load(catalogue), Plan(("demo",), (), (), ()), "cpu")

    assert session.begin().machine["threads"] == 3
