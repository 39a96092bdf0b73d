"""CPU seconds of a process and all that it started. Runs in any environment."""

import os
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A living process; seconds are user and system."""

    number: int
    parent: int
    session: int
    seconds: float


def processes() -> list[Process]:
    """Every living process, parents before their children; none where there is no /proc."""
    found, tick = [], os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold spaces; after it: state, parent, group, session ...
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        seconds = (int(fields[11]) + int(fields[12])) / tick
        found.append(Process(int(path.parent.name), int(fields[1]), int(fields[3]), seconds))
    return sorted(found)


def family(root: int) -> list[Process]:
    """A process, those of its session, and all that any of them started in sessions of their own."""
    members: dict[int, Process] = {}
    for process in processes():
        if process.number == root or process.session == root or process.parent in members:
            members[process.number] = process
    return list(members.values())


def family_seconds(root: int) -> float:
    """User and system seconds of a family's living processes; NaN where there is no /proc."""
    if not Path("/proc/self/stat").exists():
        return float("nan")
    return sum(process.seconds for process in family(root))
