"""Workers that take a free device each: real processes on a real Redis, with made-up devices."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from tests.conftest import StartWorker, WorkerProcess, eventually

from vaefarm_producer import Farm
from vaefarm_shared.device_locks import read_holders
from vaefarm_shared.quarantine import note_exit
from vaefarm_shared.workers import read_workers

TAKE = ("--decoder", "fake", "--device", "auto", "--fake-devices")

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(start_worker: StartWorker) -> Iterator[Start]:
    """Start workers that take one of `devices`; processes that a test has stopped go on at its end."""
    stopped: list[WorkerProcess] = []

    def begin(devices: int, *arguments: str, lease_seconds: float = 6.0) -> WorkerProcess:
        lease = {"VAEFARM_LEASE_SECONDS": str(lease_seconds)}
        worker = start_worker(*TAKE, str(devices), *arguments, env=lease, wait=False)
        stopped.append(worker)
        return worker

    yield begin
    for worker in stopped:
        for pid in (worker.process.pid, *children(worker.process.pid)):
            signal_to(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    """Processes that a process started: of a worker its renewer."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def signal_to(pid: int, signum: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def owners(connection: redis.Redis) -> dict[str, str]:
    """Who has which device."""
    return {one.device: one.worker for one in read_holders(connection)}


def all_take(connection: redis.Redis, count: int) -> dict[str, str]:
    """Wait until so many devices are taken and their workers serve; who has which."""
    eventually(f"{count} serve", lambda: len(read_workers(connection)) == count == len(owners(connection)))
    return owners(connection)


def wait_for_line(worker: WorkerProcess, text: str) -> None:
    """Return once a worker has said something; fail with what it said where it does not, or ends."""
    deadline = time.monotonic() + 60
    while text not in worker.log:
        assert worker.process.poll() is None, worker.log
        assert time.monotonic() < deadline, worker.log
        time.sleep(0.02)


def waits(worker: WorkerProcess) -> None:
    """Return once a worker says that it waits."""
    wait_for_line(worker, "no device is free")


@pytest.mark.slow
def test_workers_that_start_at_the_same_moment_take_a_device_each_and_one_more_waits_without_spinning(
    start: Start, connection: redis.Redis, farm: Farm
) -> None:
    three = [start(3) for _ in range(3)]
    found = all_take(connection, 3)
    assert sorted(found) == ["fake-0", "fake-1", "fake-2"]
    assert sorted(found.values()) == [one.name for one in three]
    assert {str(one["name"]): one["device_id"] for one in read_workers(connection)} == {
        worker: device for device, worker in found.items()
    }
    assert {one.id: one.workers for one in farm.devices()} == {device: [name] for device, name in found.items()}

    fourth = start(3)
    waits(fourth)
    assert all(f"{device} is worker {name}'s" in fourth.log for device, name in found.items()), fourth.log
    before = scripts_run(connection)
    time.sleep(3)
    assert fourth.log.count("no device is free") == 1
    assert scripts_run(connection) - before < 200, "a few for each look of four workers, each second"

    fourth.process.send_signal(signal.SIGTERM)
    assert fourth.process.wait(20) == 0, fourth.log
    assert "Traceback" not in fourth.log


def scripts_run(connection: redis.Redis) -> int:
    """How many scripts Redis was asked to run."""
    return int(connection.info("commandstats")["cmdstat_evalsha"]["calls"])


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["worker", "worker and renewer"])
def test_the_device_of_a_killed_worker_is_free_in_seconds_and_goes_to_the_one_that_waits(
    start: Start, connection: redis.Redis, killed: str
) -> None:
    # Where the renewer lives it frees the device at once, however long the lease is.
    lease_seconds = 60.0 if killed == "worker" else 3.0
    first = start(1, lease_seconds=lease_seconds)
    assert all_take(connection, 1) == {"fake-0": first.name}
    second = start(1, lease_seconds=3.0)
    waits(second)
    renewers = children(first.process.pid)
    assert renewers

    if killed == "worker":
        first.process.kill()
    else:
        for pid in (*renewers, first.process.pid):
            signal_to(pid, signal.SIGKILL)

    eventually("the other has it", lambda: owners(connection) == {"fake-0": second.name}, seconds=10)
    eventually("and serves", lambda: any(one["name"] == second.name for one in read_workers(connection)))


@pytest.mark.slow
@pytest.mark.parametrize("with_renewer", [False, True])
def test_a_worker_that_was_stopped_past_its_lock_ends_with_one_line_where_another_took_its_device(
    start: Start, connection: redis.Redis, with_renewer: bool
) -> None:
    first = start(1, lease_seconds=3.0)
    assert all_take(connection, 1) == {"fake-0": first.name}
    second = start(1, lease_seconds=3.0)
    waits(second)
    processes = [first.process.pid, *(children(first.process.pid) if with_renewer else ())]
    for pid in processes:
        signal_to(pid, signal.SIGSTOP)

    eventually("the other has it", lambda: owners(connection) == {"fake-0": second.name})
    for pid in processes:
        signal_to(pid, signal.SIGCONT)

    assert first.process.wait(20) != 0
    eventually("its renewer says why", lambda: "lost device" in first.log)
    errors = [line for line in first.log.splitlines() if "ERROR" in line]
    assert len(errors) == 1, first.log
    assert f"lost device fake-0 to worker {second.name}, as it stood still past its lease" in errors[0]
    assert owners(connection) == {"fake-0": second.name}


@pytest.mark.slow
def test_a_worker_that_was_stopped_past_its_lock_keeps_the_device_that_nobody_took(
    start: Start, connection: redis.Redis, farm: Farm
) -> None:
    worker = start(1, lease_seconds=3.0)
    all_take(connection, 1)
    worker.process.send_signal(signal.SIGSTOP)
    eventually("its lease ends", lambda: owners(connection) == {})

    worker.process.send_signal(signal.SIGCONT)

    eventually("it has it again", lambda: owners(connection) == {"fake-0": worker.name})
    assert worker.process.poll() is None


@pytest.mark.slow
def test_a_quarantined_device_is_skipped_its_release_ends_a_wait_and_a_worker_that_stops_frees_its_own(
    start: Start, connection: redis.Redis, farm: Farm
) -> None:
    for device in ("fake-0", "fake-2"):
        for _ in range(3):
            note_exit(connection, device, "ECC error")
    first = start(3)
    assert all_take(connection, 1) == {"fake-1": first.name}

    second = start(3)
    waits(second)
    assert "fake-0 is quarantined: ECC error (vaefarm devices --release fake-0)" in second.log
    assert f"fake-1 is worker {first.name}'s" in second.log

    assert farm.release("fake-2")
    eventually("it takes it", lambda: owners(connection) == {"fake-1": first.name, "fake-2": second.name})
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(20) == 0, first.log
    assert owners(connection) == {"fake-2": second.name}


@pytest.mark.slow
def test_devices_that_were_named_are_shared_and_left_alone_by_those_that_take_a_free_one(
    start: Start, connection: redis.Redis
) -> None:
    named = [start(2, "--device", "fake-0") for _ in range(2)]
    eventually("both serve", lambda: len(read_holders(connection)) == 2)
    assert [(one.device, one.worker) for one in read_holders(connection)] == [("fake-0", one.name) for one in named]

    free = start(2)

    eventually("it takes the other", lambda: owners(connection).get("fake-1") == free.name)
    assert all(one.process.poll() is None for one in named)


@pytest.mark.slow
def test_a_worker_with_endpoints_does_without_a_device_where_all_are_quarantined(
    start: Start, connection: redis.Redis
) -> None:
    for _ in range(3):
        note_exit(connection, "fake-0", "ECC error")

    worker = start(1, "--remote", "demo=http://127.0.0.1:1/")

    eventually("it serves", lambda: read_workers(connection))
    [told] = read_workers(connection)
    assert "fake-0 is quarantined: ECC error" in json.dumps(told["device_fault"]), worker.log
    assert owners(connection) == {}
