"""This machine's memory, as far as this process may have it: what the kernel has, within what its cgroup allows."""

from collections.abc import Iterator
from typing import Final

from . import cgroups

#: The files of a cgroup's limit, use and cache: version 2 and 1.
SECOND_VERSION: Final = ("memory.max", "memory.current", "inactive_file")
FIRST_VERSION: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_bytes() -> int | None:
    """Bytes that can be taken now without swapping; None where it cannot be told."""
    available = _meminfo("MemAvailable")
    if available is None:
        return None
    return min([available, *(max(0, limit - used) for limit, used in _cgroup_limits())])


def total_bytes() -> int | None:
    """Bytes that this process could have at most; None where it cannot be told."""
    total = _meminfo("MemTotal")
    return None if total is None else min([total, *(limit for limit, _ in _cgroup_limits())])


def _meminfo(name: str) -> int | None:
    try:
        lines = (cgroups.PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each cgroup above this process that has a limit."""
    for folder, is_second_version in cgroups.folders("memory"):
        limit_name, use_name, cache_name = SECOND_VERSION if is_second_version else FIRST_VERSION
        try:
            limit = int((folder / limit_name).read_text())
            used = int((folder / use_name).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            # No such cgroup here, or "max".
            continue
        # Cached files count as used, but give way.
        yield limit, used - int(statistics.get(cache_name, 0))
