"""Figures as people read them."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

#: From nothing to the most.
BARS: Final[str] = " ▁▂▃▄▅▆▇█"

#: Units of time that are shown with the next smaller one, in seconds.
SPANS: Final[tuple[tuple[str, float], ...]] = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))


def duration(seconds: float | None) -> str:
    """Seconds, in the one or two units that fit; nothing for None, and for what has no end."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    units = [*SPANS, ("s", 1.0)]
    for (name, span), (smaller, part) in pairwise(units):
        if seconds >= span:
            whole, rest = divmod(seconds, span)
            left = int(rest // part)
            return f"{whole:.0f} {name}" + (f" {left} {smaller}" if left else "")
    return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"


def bytes_of(size: int | None) -> str:
    """Bytes with three digits or so; nothing for None."""
    if size is None:
        return ""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= step:
            return f"{size / step:.2f} {unit}" if size < 10 * step else f"{size / step:,.0f} {unit}"
    return f"{size} bytes"


def of_limit(used: str, limit: str) -> str:
    """What is in use of what there is at most; without a limit that alone."""
    return f"{used} of {limit}" if limit else used


def count(number: int | None) -> str:
    """A number with its thousands apart; nothing for None."""
    return "" if number is None else f"{number:,}"


def share(part: float | None) -> str:
    """A part of one in per cent; nothing for None."""
    return "" if part is None else f"{part:.0%}"


def rate(each_second: float | None) -> str:
    """So many each second; nothing for None."""
    if each_second is None:
        return ""
    return f"{each_second:.2f}" if each_second < 10 else f"{each_second:,.1f}"


def sparkline(values: Sequence[float], width: int) -> str:
    """A line of bars, the newest at its end: each is the mean of as many values as must share one."""
    together = max(1, math.ceil(len(values) / max(1, width)))
    # Counted from the newest: older groups stay what they were but for their place.
    groups = [values[max(0, end - together) : end] for end in range(len(values), 0, -together)]
    means = [sum(group) / len(group) for group in reversed(groups)]
    most = max(means, default=0.0)
    if most <= 0:
        return BARS[1] * len(means)
    return "".join(BARS[max(1, round(mean / most * (len(BARS) - 1)))] for mean in means)
