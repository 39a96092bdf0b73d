"""CPU seconds of processes, read where they cost nothing. Runs in any environment."""

import os
from collections.abc import Iterator
from pathlib import Path


def session_members(session: int) -> Iterator[tuple[int, float]]:
    """Process id and user plus system seconds of every living process of a session; none where there is no /proc."""
    tick = os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold spaces; after it: state, parent, group, session ...
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session:
            yield int(path.parent.name), (int(fields[11]) + int(fields[12])) / tick


def session_seconds(session: int) -> float:
    """User and system seconds of every living process of a session; NaN where there is no /proc."""
    if not Path("/proc/self/stat").exists():
        return float("nan")
    return sum(seconds for _, seconds in session_members(session))
