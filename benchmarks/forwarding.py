"""Endpoints in processes of their own, and the worker that forwards to them."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from vaefarm_producer.local.processes import end, spawn
from vaefarm_producer.local.redis_server import free_port

from .farm_under_test import END_SECONDS, VAE, python_path

#: Seconds within which an endpoint serves.
START_SECONDS: Final = 30.0


@contextmanager
def endpoint(seconds: float, at_a_time: int, log: Any, port: int | None = None) -> Iterator["ServedEndpoint"]:
    """An endpoint on a port of loopback, once it serves. Raises RuntimeError if it does not."""
    served = ServedEndpoint(seconds, at_a_time, log, port or free_port())
    try:
        served.start()
        yield served
    finally:
        end(served.process, END_SECONDS)


class ServedEndpoint:
    """An endpoint's process, which may be killed and started again at the same address."""

    def __init__(self, seconds: float, at_a_time: int, log: Any, port: int) -> None:
        self._command = [sys.executable, "-m", f"{__package__}.endpoint", str(port), str(seconds), str(at_a_time)]
        self._log = log
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Return once it serves. Raises RuntimeError if it does not."""
        self.process = spawn(self._command, os.environ | {"PYTHONPATH": python_path()}, self._log)
        deadline = time.monotonic() + START_SECONDS
        while self.counts() is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the endpoint does not serve; see {getattr(self._log, 'name', 'its log')}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does: what it was asked is never answered."""
        self.process.kill()
        self.process.wait()

    def counts(self) -> dict[str, int] | None:
        """What it was asked since its start (`endpoint.Counts`); None while it does not serve."""
        try:
            with urllib.request.urlopen(f"{self.url}/counts", timeout=5) as answer:
                return cast("dict[str, int]", json.load(answer))
        except (urllib.error.URLError, ConnectionError):
            return None


def write_catalogue(path: Path, urls: Sequence[str], **fields: int) -> Path:
    """An operator's catalogue file that gives the VAE of every figure these endpoints; returns its path."""
    lines = [f"{name} = {value}" for name, value in fields.items()]
    tables = [[f"[[vaes.{VAE}.endpoints]]", f'url = "{url}"', f'name = "{place}"'] for place, url in enumerate(urls)]
    path.write_text("\n".join(line for table in tables for line in (*table, *lines, "")))
    return path


def forwarder_command(catalogue: Path) -> list[str]:
    """The command of a worker that decodes nothing itself."""
    return [sys.executable, "-m", "vaefarm_worker", "--remote", VAE, "--catalogue", str(catalogue)]
