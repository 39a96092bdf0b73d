"""One side's round, as its producer sees it: the same for every side, in that side's own environment."""

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol, runtime_checkable

from benchmarks import cpu

from . import workload

#: Jobs before the first that counts: the worker starts, connections open, scripts are read.
WARM_UP_JOBS: Final = 20

#: Seconds that a round may take.
ROUND_SECONDS: Final = 600

Cpu = dict[str, float]


class Side(Protocol):
    """What a side's producer does, each in the way that is best there."""

    def burst(self, latents: Sequence[bytes]) -> list[bytes]:
        """Submit all and return once every image is in hand, in the latents' order."""
        ...


@runtime_checkable
class QueueSide(Side, Protocol):
    """A side whose queue can be filled while no worker takes from it."""

    def submit(self, latents: Sequence[bytes]) -> list[Any]:
        """Queue all; return what `wait` needs."""
        ...

    def wait(self, jobs: list[Any]) -> None:
        """Return once all have ended, without their images."""
        ...


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a producer is told of its round."""

    module: str
    url: str
    worker: int
    burst: int
    single: int


def main() -> None:
    """Run a round against the worker that is starting, and print its figures as JSON."""
    signal.alarm(ROUND_SECONDS)
    arguments = parse()
    side: Side = import_module(f"{__package__}.{arguments.module}").Side(arguments.url)
    latents = workload.latents(max(arguments.burst, arguments.single, WARM_UP_JOBS))
    wanted = [workload.checksum(latent) for latent in latents]
    workload.check(wanted[:WARM_UP_JOBS], side.burst(latents[:WARM_UP_JOBS]))
    figures: dict[str, Any] = {"single_seconds": single(side, latents[: arguments.single], wanted)}
    latents, wanted = latents[: arguments.burst], wanted[: arguments.burst]
    figures |= burst(side, arguments, latents, wanted)
    if isinstance(side, QueueSide):
        figures |= drain(side, arguments, latents)
    print(json.dumps(figures))


def single(side: Side, latents: Sequence[bytes], wanted: Sequence[bytes]) -> list[float]:
    """Seconds from submit to the image in hand, one job in flight."""
    seconds = []
    for latent, sum_ in zip(latents, wanted, strict=False):
        began = time.perf_counter()
        images = side.burst([latent])
        seconds.append(time.perf_counter() - began)
        workload.check([sum_], images)
    return seconds


def burst(side: Side, arguments: Arguments, latents: Sequence[bytes], wanted: Sequence[bytes]) -> dict[str, Any]:
    """Seconds from the first submit to the last image in hand, and each process's CPU seconds."""
    before, began = cpu_seconds(arguments), time.perf_counter()
    images = side.burst(latents)
    seconds, after = time.perf_counter() - began, cpu_seconds(arguments)
    workload.check(wanted, images)
    return {"burst_seconds": seconds, "burst_cpu_seconds": {name: after[name] - before[name] for name in after}}


def drain(side: QueueSide, arguments: Arguments, latents: Sequence[bytes]) -> dict[str, Any]:
    """Seconds from the moment that the worker may take jobs from a full queue until the last has ended."""
    with stopped(arguments.worker):
        jobs = side.submit(latents)
        before = cpu_seconds(arguments)
        began = time.perf_counter()
    side.wait(jobs)
    seconds, after = time.perf_counter() - began, cpu_seconds(arguments)
    return {"drain_seconds": seconds, "drain_cpu_seconds": {name: after[name] - before[name] for name in after}}


@contextmanager
def stopped(worker: int) -> Iterator[None]:
    """A worker all of whose processes stand still for the length of the block."""
    members = [process.number for process in cpu.family(worker)]
    for process in members:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(members):
            os.kill(process, signal.SIGCONT)


def cpu_seconds(arguments: Arguments) -> Cpu:
    """User and system seconds that worker, producer and Redis have used so far."""
    seconds = {"worker": cpu.family_seconds(arguments.worker), "producer": time.process_time()}
    return seconds | {"redis": redis_seconds(arguments.url)} if arguments.url.startswith("redis:") else seconds


def redis_seconds(url: str) -> float:
    """User and system seconds of a redis-server."""
    import redis

    with redis.Redis.from_url(url) as connection:
        used = connection.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def parse() -> Arguments:
    """The command line that the contest gives."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module", help="the side's module, whose class `Side` submits and waits")
    parser.add_argument("--url", required=True, help="where the queue is, or the server")
    parser.add_argument("--worker", type=int, required=True, help="the worker's process")
    parser.add_argument("--burst", type=int, required=True, help="jobs of the burst")
    parser.add_argument("--single", type=int, required=True, help="jobs that go one at a time")
    return Arguments(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
