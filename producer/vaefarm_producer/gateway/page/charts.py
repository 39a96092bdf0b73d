"""Charts of the last hour: lines of an SVG, made from the samples that gateways keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from vaefarm_shared.history import KEPT_SECONDS, SAMPLE_SECONDS, Sample

from ...readable import duration, rate, share

#: The drawing's size, in units of its own.
WIDTH: Final[int] = 300
HEIGHT: Final[int] = 60

#: Seconds without a sample over which no line is drawn: nobody looked.
GAP_SECONDS: Final[float] = 4.0 * SAMPLE_SECONDS

#: Unix seconds and a value.
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart."""

    title: str
    #: The newest value and the highest, as people read them; '' where there is none.
    now: str
    most: str
    #: Points of each stretch without a gap, as `polyline` takes them, and the same closed along the bottom.
    lines: tuple[str, ...]
    areas: tuple[str, ...]


def charts_of(samples: Sequence[Sample], now: float) -> list[Chart]:
    """Throughput, backlog and busy share over the hour before `now`, in Unix seconds."""
    done = [
        (later.taken_at, max(later.finished - earlier.finished, 0) / (later.taken_at - earlier.taken_at))
        for earlier, later in pairwise(samples)
        if 0 < later.taken_at - earlier.taken_at <= GAP_SECONDS
    ]
    backlog = [(one.taken_at, one.backlog_seconds) for one in samples]
    busy = [(one.taken_at, one.busy_share) for one in samples if one.busy_share is not None]
    return [
        _chart("Jobs finished each second", done, now, rate),
        _chart("Backlog, device time", backlog, now, duration),
        _chart("Busy share of devices", busy, now, share, top=1.0),
    ]


def _chart(
    title: str, points: Sequence[Point], now: float, read: Callable[[float], str], top: float | None = None
) -> Chart:
    """`top`: what the height stands for; the highest value unless given."""
    shown = [(when, value) for when, value in points if when > now - KEPT_SECONDS]
    highest = max((value for _, value in shown), default=0.0)
    scale = top or highest or 1.0
    stretches: list[list[str]] = []
    last = None
    for when, value in shown:
        if last is None or when - last > GAP_SECONDS:
            stretches.append([])
        x = WIDTH * (1 - (now - when) / KEPT_SECONDS)
        stretches[-1].append(f"{x:.1f},{HEIGHT * (1 - min(value / scale, 1.0)):.1f}")
        last = when
    # A line needs two points.
    stretches = [one if len(one) > 1 else one * 2 for one in stretches]
    return Chart(
        title,
        read(shown[-1][1]) if shown else "",
        read(highest) if shown else "",
        tuple(" ".join(one) for one in stretches),
        tuple(f"{_foot(one[0])} {' '.join(one)} {_foot(one[-1])}" for one in stretches),
    )


def _foot(point: str) -> str:
    return f"{point.partition(',')[0]},{HEIGHT}"
