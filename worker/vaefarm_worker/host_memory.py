"""This machine's memory, as far as this process may have it: what the kernel has, within what its cgroup allows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Where Linux tells of itself.
PROC: Final[Path] = Path("/proc")
CGROUPS: Final[Path] = Path("/sys/fs/cgroup")


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
        lines = (PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each cgroup above this process that has a limit."""
    for folder, limit_name, use_name, cache_name in _cgroup_folders():
        try:
            limit = int((folder / limit_name).read_text())
            used = int((folder / use_name).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            # No such cgroup here, or "max".
            continue
        # Cached files count as used, but give way.
        yield limit, used - int(statistics.get(cache_name, 0))


def _cgroup_folders() -> Iterator[tuple[Path, str, str, str]]:
    """Every folder that may hold a limit, with the names of its limit, its use and its cache: version 2 and 1."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):
            if not controllers:
                yield CGROUPS / part, "memory.max", "memory.current", "inactive_file"
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                yield (CGROUPS / "memory" / part, *names)
