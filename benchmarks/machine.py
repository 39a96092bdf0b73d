"""What the figures were measured on."""

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import Any, Final

from vaefarm_producer.local.redis_server import find_redis_server

#: Packages whose versions bear on the figures.
PACKAGES: Final = ("torch", "diffusers", "redis", "hiredis", "rq", "numpy", "pillow")


def describe(folder: Path) -> dict[str, Any]:
    """The machine, the versions, its load now, and what a small write to the disk under `folder` costs."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "redis-server": redis_server_version(),
        "load average": round(os.getloadavg()[0], 2),
        "write and fsync of 4 KiB, p50 ms": round(fsync_seconds(folder) * 1e3, 3),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def processor() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'} ({platform.machine()})"


def redis_server_version() -> str:
    """The version of the redis-server that `LocalRedis` starts."""
    command = [str(find_redis_server()), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("v=")[2].split()[0]


def fsync_seconds(folder: Path, writes: int = 100) -> float:
    """Median seconds of appending 4 KiB and syncing: what a durable Redis pays before it acknowledges."""
    seconds = []
    with TemporaryFile(dir=folder) as file:
        for _ in range(writes):
            started = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return median(seconds)
