"""Pictures of real size: 128 KiB in, 1.4 MB out, in Redis and in files, beside loops that only write."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import redis

from vaefarm_producer import Farm
from vaefarm_producer.local.processes import worker_command
from vaefarm_shared import latents
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings
from vaefarm_worker.encoders import encode_threads

from . import workload
from .farm_under_test import JOB_SECONDS, VAE, FarmUnderTest, Options, farm_with
from .peers.producer import stopped
from .report import Figure, Row, middle

#: Bytes of one picture: a PNG of a photograph of 1024 x 1024.
IMAGE_BYTES: Final = 1_400_000

#: Bytes of Redis that the farm may take: every picture of a round, and as much room as its pixels could need.
BUDGET_BYTES: Final = 16 * 1024**3

Rates = list[float]


def real_sizes(options: Options) -> Figure:
    """The farm and the bare loops take turns, against one Redis and on one disk."""
    tensors = workload.noise(options.jobs, (1, 4, 128, 128))
    in_redis, sets, connections = results_in_redis(options, tensors)
    in_files, writes = results_in_files(options, tensors)
    return Figure(
        title=f"real sizes, {workload.describe(tensors)} in, {IMAGE_BYTES / 1e6:.1f} MB out, fake decoder",
        header=("", "farm, jobs/s", "bare loop, writes/s", "farm / bare"),
        rows=(
            row(f"results in Redis; bare SET, {connections} connections", in_redis, sets[connections]),
            row("results in Redis; bare SET, 1 connection", in_redis, sets[1]),
            row(f"results in files; bare write and fsync, {threads()} threads", in_files, writes),
        ),
        raw={"in_redis": in_redis, "sets": sets, "in_files": in_files, "writes": writes},
        note="The farm's time: from when the worker may take jobs of a full queue until the last has ended.",
    )


def row(name: str, farm: Rates, bare: Rates) -> Row:
    """Rates and, round by round, their ratio."""
    ratio = middle([mine / loop for mine, loop in zip(farm, bare, strict=True)])
    return (name, middle(farm, ".0f"), middle(bare, ".0f"), ratio)


def results_in_redis(options: Options, tensors: Sequence[latents.Latents]) -> tuple[Rates, dict[int, Rates], int]:
    """The farm's rates, those of SET loops by their connections, and how many connections the worker holds."""
    with farm_with(options, command(options), budget_bytes=BUDGET_BYTES) as running:
        connections = worker_connections(running, tensors[: workload.WARM_UP_JOBS])
        farm, sets = Rates(), {number: Rates() for number in (1, connections)}
        for turn in range(options.rounds):
            for side in order((0, *sets), turn):
                if side == 0:
                    farm.append(drain(running, tensors))
                else:
                    sets[side].append(bare_sets(running.server.url, side, len(tensors)))
    return farm, sets, connections


def order(sides: Sequence[int], turn: int) -> Sequence[int]:
    """The sides of a round: each round begins with the next."""
    first = turn % len(sides)
    return [*sides[first:], *sides[:first]]


def results_in_files(options: Options, tensors: Sequence[latents.Latents]) -> tuple[Rates, Rates]:
    """The farm's rates with results in a folder, and those of a loop that writes as many files as large."""
    farm, writes = Rates(), Rates()
    with TemporaryDirectory(prefix="vaefarm-bench-", dir=options.folder) as folder:
        settings: dict[str, Any] = {"budget_bytes": BUDGET_BYTES, "store": f"file://{folder}/blobs"}
        # Latents stay in Redis: what is compared is where the pictures go.
        settings["store_threshold"] = IMAGE_BYTES - 1
        with farm_with(options, command(options), **settings) as running:
            drain(running, tensors[: workload.WARM_UP_JOBS])
            for turn in range(options.rounds):
                for side in order((0, 1), turn):
                    if side == 0:
                        farm.append(drain(running, tensors))
                    else:
                        writes.append(bare_writes(Path(folder), len(tensors)))
    return farm, writes


def command(options: Options) -> list[str]:
    """The worker's."""
    fake = ["--decoder", "fake", "--fake-image-bytes", str(IMAGE_BYTES)]
    return [*worker_command(VAE, options.device), *fake]


def threads() -> int:
    """As many as the worker writes files with."""
    return encode_threads(Settings.model_construct(), "fake")


def drain(running: FarmUnderTest, tensors: Sequence[latents.Latents]) -> float:
    """Jobs per second from a full queue; the pictures are removed afterwards."""
    with stopped(running.worker.pid):
        jobs = running.farm.submit_many(tensors, vae=VAE)
        began = time.perf_counter()
    ended = list(running.farm.as_completed(jobs, timeout=JOB_SECONDS))
    seconds = time.perf_counter() - began
    assert len(ended[0].fetch().data[0]) == IMAGE_BYTES
    for job in ended:
        job.discard()
    return len(jobs) / seconds


def worker_connections(running: FarmUnderTest, warm_up: Sequence[latents.Latents]) -> int:
    """Connections that the worker holds once it has stored pictures, its subscribers aside."""
    with Farm(running.server.url) as farm:
        for job in farm.as_completed(farm.submit_many(warm_up, vae=VAE), timeout=JOB_SECONDS, discard=True):
            job.fetch()
    with connect(running.server.url) as own:
        # Besides: this one, and the one over which `running.farm` saw the worker come.
        return len(own.client_list(_type="normal")) - 2


def bare_sets(url: str, connections: int, count: int) -> float:
    """SETs per second of that many threads with a connection each; what they wrote is removed afterwards."""
    image, numbers = bytes(IMAGE_BYTES), iter(range(count))
    clients = [connect(url) for _ in range(connections)]

    def write(client: redis.Redis) -> None:
        for number in numbers:
            client.set(f"bare:{number}", image, ex=3600)

    seconds = in_threads([partial(write, client) for client in clients])
    clients[0].delete(*(f"bare:{number}" for number in range(count)))
    for client in clients:
        client.close()
    return count / seconds


def bare_writes(folder: Path, count: int) -> float:
    """Files per second that so many threads write and sync; they are removed afterwards."""
    image, numbers = bytes(IMAGE_BYTES), iter(range(count))

    def write() -> None:
        for number in numbers:
            with (folder / f"bare-{number}").open("wb") as file:
                file.write(image)
                file.flush()
                os.fsync(file.fileno())

    seconds = in_threads([write] * threads())
    for number in range(count):
        (folder / f"bare-{number}").unlink()
    return count / seconds


def in_threads(works: Sequence[Callable[[], object]]) -> float:
    """Seconds until all, each in a thread of its own, have returned."""
    with ThreadPoolExecutor(len(works)) as pool:
        began = time.perf_counter()
        for future in [pool.submit(work) for work in works]:
            future.result()
        return time.perf_counter() - began
