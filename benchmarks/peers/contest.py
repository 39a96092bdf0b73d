"""Rounds in which the sides take turns, each with a Redis and a worker that start for it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from vaefarm_producer.local.processes import end, spawn
from vaefarm_producer.local.redis_server import LocalRedis, free_port
from vaefarm_shared.errors import FarmError

from ..farm_under_test import python_path
from .producer import ROUND_SECONDS
from .sides import Command, Side

#: Seconds that a worker may take to end.
END_SECONDS: Final = 10.0

#: Seconds between two looks at whether worker and producer live.
LOOK_SECONDS: Final = 0.2

#: Bytes of Redis that vaefarm may take: room for a burst's pictures were they as large as their pixels could need.
BUDGET_BYTES: Final = 64 * 1024**3

Round = dict[str, Any]


def contest(
    sides: Sequence[Side], rounds: int, burst: int, single: int, durable: bool, folder: Path
) -> list[list[Round]]:
    """Each side's rounds, in the sides' order; each round begins with the next side."""
    pythons = [side.python() for side in sides]
    figures: list[list[Round]] = [[] for _ in sides]
    for turn in range(rounds):
        for place in range(len(sides)):
            place = (place + turn) % len(sides)
            print(f"round {turn + 1} of {rounds}: {sides[place].name} ...", file=sys.stderr, flush=True)
            with TemporaryDirectory(prefix="vaefarm-bench-", dir=folder) as own:
                figures[place].append(play(sides[place], pythons[place], burst, single, durable, Path(own)))
    return figures


def play(side: Side, python: str, burst: int, single: int, durable: bool, folder: Path) -> Round:
    """One side's round. Raises FarmError with the last line of what went wrong."""
    with ExitStack() as stack:
        if side.on_redis:
            url = stack.enter_context(LocalRedis(folder / "redis", durable=durable)).url
        else:
            url = f"http://127.0.0.1:{free_port()}"
        environment = _environment(url)
        worker = None
        if side.worker is not None:
            log = stack.enter_context((folder / "worker.log").open("wb"))
            worker = spawn(side.worker(python), environment, log)
            stack.callback(end_session, worker)
        command = [python, "-m", f"{__package__}.{side.program}", side.module, "--url", url, "--burst", str(burst)]
        command += ["--single", str(single), "--worker", str(worker.pid if worker else os.getpid())]
        return _produce(side, command, environment, worker, folder)


def end_session(worker: "subprocess.Popen[bytes]") -> None:
    """End a worker, and what it started and left behind: LitServe's servers outlive the process that made them."""
    end(worker, END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)


def _environment(url: str) -> dict[str, str]:
    """What worker and producer see: none of our settings but the queue's place, and this package's folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VAEFARM_")}
    ours = {"VAEFARM_REDIS_URL": url, "VAEFARM_BUDGET_BYTES": str(BUDGET_BYTES)}
    return kept | ours | {"PYTHONPATH": python_path(), "PEER_URL": url, "OMP_NUM_THREADS": "1"}


def _produce(
    side: Side, command: Command, environment: dict[str, str], worker: "subprocess.Popen[bytes] | None", folder: Path
) -> Round:
    """Run the producer to its end and read its figures."""
    out, errors = folder / "producer.json", folder / "producer.log"
    with out.open("wb") as stdout, errors.open("wb") as stderr:
        producer = subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr)
        deadline = time.monotonic() + ROUND_SECONDS
        try:
            while producer.poll() is None and time.monotonic() < deadline:
                if worker is not None and worker.poll() is not None:
                    raise FarmError(f"{side.name}: its worker ended: {_last_line(folder / 'worker.log')}")
                time.sleep(LOOK_SECONDS)
        finally:
            end(producer, END_SECONDS)
    if producer.returncode != 0:
        raise FarmError(f"{side.name}: its producer failed: {_last_line(errors)}")
    figures: Round = json.loads(out.read_text().splitlines()[-1])
    return figures


def _last_line(path: Path) -> str:
    lines = path.read_text().strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it said nothing"
