"""Whether latents without end cost memory without end: `farm.map`, the farm that it goes through, and what stays."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from vaefarm_producer.local.processes import worker_command
from vaefarm_shared.connection import connect

from . import bulk_producer, cpu
from .farm_under_test import JOB_SECONDS, VAE, Options, farm_with, python_path
from .gateway import clean_environment, serving
from .report import Figure, Row

#: Jobs over Redis for each job of the options, 100,000 for their 200, and over HTTP: there a job costs more.
REDIS_JOBS: Final = 500
HTTP_JOBS: Final = 25

#: Bytes of each picture: finished files, as there is nothing to measure in encoding.
PICTURE_BYTES: Final = 4096

MEBI: Final = 1024**2

#: Seconds that a job may take here, of which the bound of a run is made.
SECONDS_A_JOB: Final = 0.05


def bulk(options: Options) -> Figure:
    """One round over each way, whatever the options say: the memory of a long run is the figure."""
    runs = {
        "Redis": passed(options, options.jobs * REDIS_JOBS, over_http=False),
        "HTTP": passed(options, options.jobs * HTTP_JOBS, over_http=True),
    }
    return Figure(
        title="bulk, `farm.map` over latents of 2 KiB as they are made, fake decoder, pictures of 4 KiB, one round",
        header=(
            "",
            *(f"after {percent} %" for percent in bulk_producer.PERCENT),
            "last / first",
            f"last / at {bulk_producer.PERCENT[1]} %",
            "peak",
        ),
        rows=tuple(row for name, run in runs.items() for row in rows(name, run)),
        raw=runs,
        note="\n\n".join(note(name, run) for name, run in runs.items()),
    )


def passed(options: Options, jobs: int, *, over_http: bool) -> dict[str, Any]:
    """What a producer in a process of its own has to tell, and what the others' processors did meanwhile."""
    command = [*worker_command(VAE, options.device), "--decoder", "fake", "--fake-image-bytes", str(PICTURE_BYTES)]
    with farm_with(options, command) as running, ExitStack() as stack:
        environment = clean_environment(running.server.url, options)
        arguments, gateway = [running.server.url, running.server.url, str(jobs)], None
        if over_http:
            log = stack.enter_context((running.server.folder / "gateway.log").open("wb"))
            arguments[0], child = stack.enter_context(serving(environment, log))
            gateway = child.pid
            arguments.append(str(gateway))
        before, began = running.cpu_seconds(), time.perf_counter()
        spent = 0.0 if gateway is None else cpu.family_seconds(gateway)
        told = subprocess.run(
            [sys.executable, "-m", bulk_producer.__name__, *arguments],
            env=os.environ | {"PYTHONPATH": python_path()},
            stdout=subprocess.PIPE,
            timeout=JOB_SECONDS + jobs * SECONDS_A_JOB,
            check=True,
        )
        run: dict[str, Any] = json.loads(told.stdout) | {"jobs": jobs, "wall": time.perf_counter() - began}
        after = running.cpu_seconds()
        run["cpu"] = {"producer": run.pop("cpu_seconds")}
        run["cpu"] |= {name: after[name] - before[name] for name in ("redis", "worker")}
        if gateway is not None:
            run["cpu"]["gateway"] = cpu.family_seconds(gateway) - spent
        with connect(running.server.url) as connection:
            run["events"] = connection.xlen("vaefarm:events")
    return run


def rows(name: str, run: dict[str, Any]) -> list[Row]:
    """What each holds as the run goes on."""
    first = run["samples"][0]
    whose = {"producer": MEBI, "redis": MEBI} | ({} if first["gateway"] is None else {"gateway": MEBI}) | {"keys": 1}
    names = {"producer": "producer, MiB", "redis": "Redis, MiB", "gateway": "gateway, MiB", "keys": "keys in Redis"}
    return [
        (
            f"{run['jobs']} jobs over {name}: {names[what]}",
            *cells([one[what] / unit for one in run["samples"]], max(one[what] / unit for one in run["looks"]), unit),
        )
        for what, unit in whose.items()
    ]


def cells(values: Sequence[float], peak: float, unit: int) -> Row:
    """A row's samples, its two ratios and its peak."""
    form = ".0f" if unit == 1 else ".1f"
    ratios = (f"{values[-1] / values[0]:.2f}", f"{values[-1] / values[1]:.2f}")
    return (*(f"{value:{form}}" for value in values), *ratios, f"{peak:{form}}")


def note(name: str, run: dict[str, Any]) -> str:
    """Jobs a second, CPU, and what stays at the end."""
    seconds = run["samples"][-1]["seconds"]
    spent = ", ".join(f"{who} {1e3 * used / run['jobs']:.2f}" for who, used in run["cpu"].items())
    kept = ", ".join(
        f"{run['kinds'][kind]} {kind} of {size / MEBI:.2f} MiB"
        for kind, size in sorted(run["kind_bytes"].items(), key=lambda one: -one[1])[:2]
    )
    return (
        f"Over {name}: {run['jobs'] / seconds:.0f} jobs/s; CPU ms a job: {spent}. At the end Redis holds {kept}"
        f" ({run['events']} events)."
    )
