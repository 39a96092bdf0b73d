"""What each job costs where the decode costs nothing: vaefarm, and what one would take instead."""

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import numpy as np

from .farm_under_test import Options
from .peers import workload
from .peers.contest import Round, contest
from .peers.sides import SIDES, Side
from .report import Figure, Row, middle

#: What stands where a side has no such figure.
NONE: Final = "-"

#: The side that the others' rates are set against.
FIRST: Final = SIDES[0].name


def overhead(options: Options) -> Figure:
    """A burst through each side, one worker process each; the sides take turns."""
    sides = [side for side in SIDES if not options.sides or side.name in options.sides]
    rounds = contest(sides, options.rounds, options.burst, options.jobs, options.durable, options.folder)
    return Figure(
        title=(
            f"overhead, a burst of {options.burst} jobs, {workload.LATENT_BYTES // 1024} KiB in,"
            f" {workload.IMAGE_BYTES // 1024} KiB out, one worker, {redis_options(options)}"
        ),
        header=("", "jobs/s", "drain, jobs/s", "CPU ms a job: worker", "producer", "Redis", "alone, p50 ms", "p95 ms"),
        rows=tuple(row(side, own, options.burst) for side, own in zip(sides, rounds, strict=True)),
        raw={side.name: own for side, own in zip(sides, rounds, strict=True)},
        note=note(sides, rounds),
    )


def redis_options(options: Options) -> str:
    """How Redis keeps what it acknowledges."""
    return "appendonly yes, appendfsync always" if options.durable else "nothing on disk"


def row(side: Side, rounds: Sequence[Round], count: int) -> Row:
    """A side's medians, with the range of its rates. What has no burst has the CPU of its drain."""
    cpu: list[dict[str, float]] = [one.get("burst_cpu_seconds") or one["drain_cpu_seconds"] for one in rounds]
    return (
        side.name,
        rates(rounds, "burst_seconds", count),
        rates(rounds, "drain_seconds", count),
        *(cpu_cell(cpu, name, count) for name in ("worker", "producer", "redis")),
        *percentile_cells(rounds),
    )


def rates(rounds: Sequence[Round], name: str, count: int) -> str:
    """Jobs per second."""
    return middle([count / one[name] for one in rounds], ".0f") if name in rounds[0] else NONE


def cpu_cell(rounds: Sequence[dict[str, float]], name: str, count: int) -> str:
    """CPU milliseconds of one process for each job."""
    return f"{median(1e3 * one[name] / count for one in rounds):.2f}" if name in rounds[0] else NONE


def percentile_cells(rounds: Sequence[Round]) -> Row:
    """p50 and p95 of jobs that go one at a time, in milliseconds."""
    if "single_seconds" not in rounds[0]:
        return (NONE, NONE)
    per_round = [np.percentile(one["single_seconds"], (50, 95)) for one in rounds]
    return tuple(f"{1e3 * float(value):.2f}" for value in np.median(per_round, axis=0))


def note(sides: Sequence[Side], rounds: Sequence[Sequence[Round]]) -> str:
    """The first side's rate as a multiple of each other's, round by round."""
    by_name: dict[str, Any] = {side.name: own for side, own in zip(sides, rounds, strict=True)}
    ours = by_name.pop(FIRST, None)
    if ours is None:
        return ""
    ratios = [
        f"{name} {middle([one['burst_seconds'] / mine['burst_seconds'] for one, mine in zip(own, ours, strict=True)])}"
        for name, own in by_name.items()
        if "burst_seconds" in own[0]
    ]
    return f"{FIRST}'s jobs/s as a multiple of: {'; '.join(ratios)}." if ratios else ""
