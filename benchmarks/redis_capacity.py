"""How far one Redis goes: what a job costs it over its whole life, in processor time, bytes on disk and on the network,
and in memory while it waits and once it is finished."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import redis

from vaefarm_producer import Farm, Job
from vaefarm_producer.local.demo import wait_for_worker
from vaefarm_producer.local.processes import end, spawn, worker_command
from vaefarm_producer.local.redis_server import LocalRedis
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings

from . import workload
from .farm_under_test import END_SECONDS, JOB_SECONDS, VAE, Options, local_redis, python_path
from .report import Figure, Row

#: Bytes of Redis that the farm may take: the pictures' reserve counts, however small they are.
BUDGET_BYTES: Final = 64 * 1024**3

KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of job, and how Redis keeps it."""

    shape: tuple[int, int, int, int]
    picture_bytes: int
    #: `always` or `everysec`.
    appendfsync: str
    #: Whether what is larger than 64 KiB lies in files.
    in_files: bool = False

    @property
    def latent_bytes(self) -> int:
        """Of float16."""
        return int(np.prod(self.shape)) * 2

    @property
    def name(self) -> str:
        """For the table's first cell."""
        where = "files" if self.in_files else "Redis"
        sizes = f"{self.latent_bytes // KIB} KiB in, {self.picture_bytes // KIB} KiB out"
        return f"{sizes}, in {where}, {self.appendfsync}"


SHAPES: Final = ((1, 4, 64, 64), (1, 4, 128, 128), (1, 4, 256, 256))

#: Small pictures, so that latents show; then what pictures add, and what files take away.
CASES: Final = (
    *(Case(shape, 16 * KIB, appendfsync) for appendfsync in ("always", "everysec") for shape in SHAPES),
    *(Case(SHAPES[1], 1024 * KIB, appendfsync) for appendfsync in ("always", "everysec")),
    *(Case(SHAPES[1], 1024 * KIB, appendfsync, in_files=True) for appendfsync in ("always", "everysec")),
)


@dataclass(slots=True)
class Life:
    """What one job took of Redis, each a mean over all of a run."""

    #: Commands, those within scripts too, and the scripts.
    commands: float = 0.0
    scripts: float = 0.0
    #: Milliseconds of its main thread, which runs every command, and of all its threads.
    main_ms: float = 0.0
    cpu_ms: float = 0.0
    disk_bytes: float = 0.0
    in_bytes: float = 0.0
    out_bytes: float = 0.0
    #: Memory while it waits, once it is finished, and once it is discarded.
    queued_bytes: float = 0.0
    finished_bytes: float = 0.0
    gone_bytes: float = 0.0
    #: Seconds on the clock, from the first submit to the last picture.
    seconds: float = 0.0


def redis_capacity(options: Options) -> Figure:
    """Every case, round by round, each on a Redis of its own."""
    rounds = [[live(case, options) for case in CASES] for _ in range(options.rounds)]
    lives = [middle_of([own[place] for own in rounds]) for place in range(len(CASES))]
    return Figure(
        title=f"redis-capacity, {options.jobs} jobs one after another, then a worker that takes no time; for each job",
        header=(
            "",
            "commands (scripts)",
            "CPU ms: main thread (all)",
            "jobs/s a core",
            "AOF KiB",
            "network KiB in, out",
            "queued KiB",
            "queued in 1 GiB",
            "finished KiB",
            "discarded KiB",
        ),
        rows=tuple(row(case, life) for case, life in zip(CASES, lives, strict=True)),
        raw={case.name: [asdict(own[place]) for own in rounds] for place, case in enumerate(CASES)},
        note=(
            "Main thread: user and system time of the one thread that runs every command; jobs/s a core: 1000 over it,"
            " what one Redis can do where nothing else limits it. Waits for the disk are no CPU: with `always` a reply"
            " waits for one write and fsync, which all clients of one turn of the loop share."
        ),
    )


def row(case: Case, life: Life) -> Row:
    """A case's medians."""
    return (
        case.name,
        f"{life.commands:.0f} ({life.scripts:.1f})",
        f"{life.main_ms:.2f} ({life.cpu_ms:.2f})",
        f"{1e3 / life.main_ms:.0f}",
        f"{life.disk_bytes / KIB:.1f}",
        f"{life.in_bytes / KIB:.1f}, {life.out_bytes / KIB:.1f}",
        f"{life.queued_bytes / KIB:.1f}",
        f"{KIB**3 / life.queued_bytes:.0f}",
        f"{life.finished_bytes / KIB:.1f}",
        f"{life.gone_bytes / KIB:.1f}",
    )


def middle_of(lives: list[Life]) -> Life:
    """The median of each figure."""
    return Life(**{name: median(asdict(one)[name] for one in lives) for name in asdict(lives[0])})


def live(case: Case, options: Options) -> Life:
    """Queue jobs, have a worker end them, fetch and discard them; what Redis says of it."""
    with farm_of(case, options) as (server, farm, settings):
        connection = connect(server.url)
        with connection:
            tensors = workload.noise(options.jobs, case.shape)
            work_off(farm, server, settings, case, options, tensors[: workload.WARM_UP_JOBS])
            before, clean = counters(connection), memory(connection)
            began = time.perf_counter()
            jobs = [farm.submit(held.array, vae=VAE) for held in tensors]
            queued = memory(connection)
            # The worker's start is its own affair: its registration is a few commands.
            work_off(farm, server, settings, case, options, [], jobs)
            seconds, after = time.perf_counter() - began, counters(connection)
            finished = memory(connection)
            for job in jobs:
                job.discard()
            gone = memory(connection)
    count = len(jobs)
    each = {name: (after[name] - before[name]) / count for name in before}
    return Life(
        **each,
        queued_bytes=(queued - clean) / count,
        finished_bytes=(finished - clean) / count,
        gone_bytes=(gone - clean) / count,
        seconds=seconds / count,
    )


@contextmanager
def farm_of(case: Case, options: Options) -> Iterator[tuple[LocalRedis, Farm, Settings]]:
    """A Redis that keeps jobs as the case says, and a producer."""
    with ExitStack() as stack:
        server = stack.enter_context(local_redis(options))
        with connect(server.url) as connection:
            connection.config_set("appendonly", "yes")
            connection.config_set("appendfsync", case.appendfsync)
            # A rewrite in between would count what it left out.
            connection.config_set("auto-aof-rewrite-percentage", 0)
        store = f"file://{server.folder / 'store'}" if case.in_files else "redis://"
        settings = Settings.model_construct(budget_bytes=BUDGET_BYTES, store=store).at(server.url)
        yield server, stack.enter_context(Farm(settings=settings)), settings


def work_off(
    farm: Farm,
    server: LocalRedis,
    settings: Settings,
    case: Case,
    options: Options,
    tensors: list[Any],
    jobs: list[Job] | None = None,
) -> None:
    """Have a worker end these jobs, or those of these tensors, and fetch what it made."""
    waited = list(jobs or [farm.submit(held.array, vae=VAE) for held in tensors])
    variables = {"VAEFARM_REDIS_URL": server.url, "VAEFARM_STORE": settings.store, "PYTHONPATH": python_path()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VAEFARM_")} | variables
    fake = ["--decoder", "fake", "--fake-image-bytes", str(case.picture_bytes)]
    log_path = Path(server.folder) / "worker.log"
    with log_path.open("wb") as log:
        worker = spawn([*worker_command(VAE, options.device), *fake], environment, log)
        try:
            wait_for_worker(farm, worker, log_path)
            for job in waited:
                assert job.result(timeout=JOB_SECONDS).data, "a picture of nothing"
        finally:
            end(worker, END_SECONDS)


def counters(connection: redis.Redis) -> dict[str, float]:
    """What Redis has done so far."""
    stats, cpu, disk = (connection.info(section) for section in ("stats", "cpu", "persistence"))
    commands = connection.info("commandstats")
    return {
        "commands": float(sum(one["calls"] for one in commands.values())),
        "scripts": float(commands.get("cmdstat_evalsha", {}).get("calls", 0)),
        "main_ms": 1e3 * (cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]),
        "cpu_ms": 1e3 * (cpu["used_cpu_user"] + cpu["used_cpu_sys"]),
        "disk_bytes": float(disk["aof_current_size"]),
        "in_bytes": float(stats["total_net_input_bytes"]),
        "out_bytes": float(stats["total_net_output_bytes"]),
    }


def memory(connection: redis.Redis) -> int:
    """Bytes allocated, without what clients' buffers and the append-only file's hold for a moment."""
    found = connection.info("memory")
    return int(found["used_memory"] - found["mem_clients_normal"] - found["mem_aof_buffer"])
