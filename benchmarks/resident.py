"""What of a process lies in memory, as the kernel tells it. Runs in any environment."""

from pathlib import Path


def resident_bytes(process: int | str = "self") -> int:
    """Bytes that lie in memory now. Raises OSError where there is no such process, or no /proc."""
    return _told("VmRSS", process)


def peak_bytes(process: int | str = "self") -> int:
    """The most bytes that ever lay in memory, or did since `reset_peak`. Raises OSError as `resident_bytes`."""
    return _told("VmHWM", process)


def reset_peak() -> None:
    """Have this process' peak begin anew, at what lies in memory now."""
    Path("/proc/self/clear_refs").write_text("5")


def _told(name: str, process: int | str) -> int:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024
