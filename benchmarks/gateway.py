"""The gateway: many who wait beside a deep queue, and jobs over HTTP against the same over Redis."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, cast

import numpy as np

from vaefarm_producer import Farm
from vaefarm_producer.local.processes import end, spawn, worker_command
from vaefarm_shared import keys
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings

from . import cpu, workload
from .crowd import OF_ALL, WAITING
from .depth import BUDGET_BYTES, FILL_JOBS, SHAPE
from .farm_under_test import END_SECONDS, JOB_SECONDS, VAE, FarmUnderTest, Options, farm_with, local_redis, python_path
from .report import Figure, middle
from .resident import resident_bytes

#: Jobs that pass while others wait for them.
PASSING: Final = 2000

#: Seconds that the worker's device takes for a batch, the GIL released, and jobs of a batch: 200 jobs each second.
BATCH_SECONDS: Final = 0.02
BATCH_JOBS: Final = 4

#: Seconds within which a gateway serves.
START_SECONDS: Final = 30.0


def gateway_waits(options: Options) -> Figure:
    """Rounds of PASSING jobs, with WAITING clients who wait for them, beside a deep queue and a busy worker."""
    passes: list[dict[str, Any]] = []
    with ExitStack() as stack:
        server = stack.enter_context(local_redis(options))
        settings = Settings.model_construct(budget_bytes=BUDGET_BYTES).at(server.url)
        farm = stack.enter_context(Farm(settings=settings))
        (held,) = workload.noise(1, SHAPE)
        deep: list[str] = []
        while len(deep) < options.depth:
            count = min(FILL_JOBS, options.depth - len(deep))
            deep += [job.id for job in farm.submit_many([held] * count, vae=VAE, priority="low", producer="deep")]
        environment = clean_environment(server.url, options)
        command = [*worker_command(VAE, "cpu"), "--decoder", "fake", "--fake-seconds", str(BATCH_SECONDS)]
        log = stack.enter_context((server.folder / "processes.log").open("wb"))
        batch_pixels = BATCH_JOBS * 64 * SHAPE[2] * SHAPE[3]
        worker = spawn(command, environment | {"VAEFARM_BATCH_PIXELS": str(batch_pixels)}, log)
        stack.callback(end, worker, END_SECONDS)
        url, gateway = stack.enter_context(serving(environment, log))
        running = FarmUnderTest(farm, server, worker)
        for _ in range(options.rounds):
            passes.append(one_pass(running, url, gateway.pid, deep, environment))
    return Figure(
        title=(
            f"gateway, {WAITING} clients who wait, by long poll and by stream, and {OF_ALL} streams of all, while"
            f" {PASSING} jobs pass; {options.depth} jobs queued behind them"
        ),
        header=("", f"median of {options.rounds} (range)"),
        rows=(
            ("events dropped, of all rounds", str(sum(one["dropped"] for one in passes))),
            ("waits that ended otherwise than finished, of all rounds", str(sum(one["wrong"] for one in passes))),
            ("GET /v1/jobs/{id}, p50 ms", middle([one["ask"][0] for one in passes])),
            ("GET /v1/jobs/{id}, p99 ms", middle([one["ask"][1] for one in passes])),
            ("jobs/s", middle([PASSING / one["seconds"] for one in passes], ".0f")),
            ("gateway CPU, share of a core", middle([one["cpu"] / one["seconds"] for one in passes])),
            ("gateway memory after each round, MiB", ", ".join(f"{one['mebibytes']:.0f}" for one in passes)),
        ),
        raw={"passes": passes},
        note=(
            f"A device of {BATCH_SECONDS * 1e3:.0f} ms for {BATCH_JOBS} jobs, kept busy by what is queued behind."
            " Clients, gateway, worker and Redis share this machine; the one who asks does so 50 times a second."
        ),
    )


def one_pass(
    running: FarmUnderTest, url: str, gateway: int, deep: list[str], environment: dict[str, str]
) -> dict[str, Any]:
    """Jobs pass while the crowd waits."""
    (held,) = workload.noise(1, SHAPE)
    connection = connect(running.server.url)
    (newest,) = cast("list[tuple[bytes, Any]]", connection.xrevrange(keys.EVENTS, count=1))
    since = newest[0].decode()
    connection.close()
    running.farm.pause(VAE)
    jobs = running.farm.submit_many([held] * PASSING, vae=VAE, producer="web")
    ids = [job.id for job in jobs]
    with ExitStack() as stack:
        waiting = stack.enter_context(crowd("wait", url, {"ids": ids, "since": since}, environment))
        asking = stack.enter_context(crowd("ask", url, {"ids": deep[:1000] + ids}, environment))
        spent, began = cpu.family_seconds(gateway), time.perf_counter()
        running.farm.resume(VAE)
        for job in running.farm.as_completed(jobs, timeout=JOB_SECONDS):
            assert job.id
        seconds = time.perf_counter() - began
        spent = cpu.family_seconds(gateway) - spent
        asked = result_of(asking)
        told = result_of(waiting)
    wanted = {"queued": PASSING, "started": PASSING, "finished": PASSING}
    dropped = sum(abs(count - one.get(status, 0)) for one in told["events"] for status, count in wanted.items())
    return {
        "dropped": dropped + sum(one.get("reset", 0) for one in told["events"]),
        "wrong": PASSING - sum(count for how, count in told["ends"].items() if how.endswith("finished")),
        "ask": [float(one) for one in np.percentile(np.asarray(asked["seconds"]) * 1e3, (50, 99))],
        "statuses": asked["statuses"],
        "asked": len(asked["seconds"]),
        "seconds": seconds,
        "cpu": spent,
        "mebibytes": memory_of(gateway),
    }


@contextmanager
def crowd(
    what: str, url: str, told: dict[str, Any], environment: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Clients that have begun, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.crowd", what, url]
    child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(told).encode() + b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"ready\n"
        yield child
    finally:
        end(child, END_SECONDS)


def result_of(child: "subprocess.Popen[bytes]") -> Any:
    """What clients have to tell once they are done."""
    return json.loads(child.communicate(timeout=JOB_SECONDS)[0])


def gateway_rate(options: Options) -> Figure:
    """Bursts over HTTP and over Redis in turn, through one worker."""
    rates: dict[str, list[float]] = {"redis": [], "http": []}
    command = [*worker_command(VAE, "cpu"), "--decoder", "fake"]
    tensors = workload.noise(options.burst, (1, 4, 32, 32))
    with farm_with(options, command, budget_bytes=BUDGET_BYTES) as running, ExitStack() as stack:
        log = stack.enter_context((running.server.folder / "gateway.log").open("wb"))
        url, _ = stack.enter_context(serving(clean_environment(running.server.url, options), log))
        over = {"redis": running.farm, "http": stack.enter_context(Farm(url))}
        for farm in over.values():
            burst(farm, tensors[: workload.WARM_UP_JOBS])
        for turn in range(options.rounds):
            for name in over if turn % 2 else reversed(over):
                rates[name].append(len(tensors) / burst(over[name], tensors))
    ratios = [http / direct for http, direct in zip(rates["http"], rates["redis"], strict=True)]
    return Figure(
        title=f"jobs over HTTP, a burst of {options.burst} jobs of 1x4x32x32 float16, fake decoder, pictures discarded",
        header=("", f"jobs/s, median of {options.rounds} (range)"),
        rows=(
            ("Farm('redis://...')", middle(rates["redis"], ".0f")),
            ("Farm('http://...')", middle(rates["http"], ".0f")),
            ("ratio", middle(ratios)),
        ),
        raw=rates,
    )


def burst(farm: Farm, tensors: list[Any]) -> float:
    """Seconds from the first submit to the last job's end."""
    began = time.perf_counter()
    jobs = farm.submit_many(tensors, vae=VAE)
    for _ in farm.as_completed(jobs, timeout=JOB_SECONDS):
        pass
    seconds = time.perf_counter() - began
    for job in jobs:
        job.discard()
    return seconds


@contextmanager
def serving(environment: dict[str, str], log: Any) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A gateway on a free port of loopback, once it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from vaefarm_producer.cli import main; main()"
    child = spawn([sys.executable, "-c", code, "gateway", "--port", str(port)], environment, log)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while not answers(url):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the gateway does not serve; see {getattr(log, 'name', 'its log')}")
            time.sleep(0.05)
        yield url, child
    finally:
        end(child, END_SECONDS)


def answers(url: str) -> bool:
    """Whether something serves there."""
    try:
        with urllib.request.urlopen(f"{url}/openapi.json", timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def clean_environment(redis_url: str, options: Options) -> dict[str, str]:
    """This process' environment, with that farm in it and no other setting of ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VAEFARM_")}
    return environment | {
        "VAEFARM_REDIS_URL": redis_url,
        "VAEFARM_BUDGET_BYTES": str(BUDGET_BYTES),
        "OMP_NUM_THREADS": str(options.threads),
        "PYTHONPATH": python_path(),
    }


def memory_of(number: int) -> float:
    """Mebibytes of memory that a process holds; NaN where there is no /proc."""
    try:
        return resident_bytes(number) / 1024**2
    except OSError:
        return float("nan")
