"""Where Linux tells of this process: /proc, and the cgroups above it, of version 1 and 2."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final[Path] = Path("/proc")
CGROUPS: Final[Path] = Path("/sys/fs/cgroup")


def folders(controller: str) -> Iterator[tuple[Path, bool]]:
    """Every folder that may hold a limit of that controller ("memory", "cpu"), and whether it is one of version 2."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):
            if not controllers:
                yield CGROUPS / part, True
            elif controller in controllers.split(","):
                yield CGROUPS / controller / part, False
