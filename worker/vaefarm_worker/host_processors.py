"""This machine's processors, as far as this process may have them."""

import math
import os

from . import cgroups


def usable() -> int:
    """Processors that can run threads of this process at a time: those it is bound to, within its cgroups' quotas."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *_quotas()]))


def _quotas() -> list[int]:
    """Of each cgroup above this process that has a quota: whole processors, a part of one counted as one."""
    found = []
    for folder, is_second_version in cgroups.folders("cpu"):
        try:
            if is_second_version:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            share = int(quota) / int(period)
        except (OSError, ValueError):
            # No such cgroup here, or "max".
            continue
        if share > 0:
            found.append(math.ceil(share))
    return found
