"""What a producer pays for a submit: check, pack, then send until it is acknowledged. No worker runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import redis

from vaefarm_producer import Farm, submission
from vaefarm_shared import latents
from vaefarm_shared.connection import connect
from vaefarm_shared.digests import request_hash

from . import workload
from .farm_under_test import VAE, Options, local_redis
from .report import Figure, percentiles

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Samples:
    """One round: each submit's seconds, in its parts, and the CPU seconds of all."""

    check: list[float] = field(default_factory=list)
    pack: list[float] = field(default_factory=list)
    send: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @property
    def whole(self) -> list[float]:
        """Each submit's seconds."""
        return [sum(parts) for parts in zip(self.check, self.pack, self.send, strict=True)]


class Stopwatch:
    """Seconds spent inside functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[P, T]) -> Callable[P, T]:
        """The function, its time added up."""

        def wrapper(*arguments: P.args, **options: P.kwargs) -> T:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - began

        return wrapper


def submit(options: Options) -> Figure:
    """Latents of 128 KiB as NumPy arrays, one after another."""
    tensors = workload.noise(options.jobs, (1, 4, 128, 128))
    rounds, bare = list[Samples](), list[list[float]]()
    with local_redis(options) as server, connect(server.url) as client, Farm(server.url) as farm, packing() as watch:
        _round(farm, tensors[: workload.WARM_UP_JOBS], watch)
        for _ in range(options.rounds):
            rounds.append(_round(farm, tensors, watch))
            bare.append(_set(client, tensors))
    cpu = [1e3 * one.cpu_seconds / len(tensors) for one in rounds]
    return Figure(
        title=f"submit, {workload.describe(tensors)}",
        header=("milliseconds", "p50", "p95", "p99"),
        rows=(
            ("submit", *percentiles([one.whole for one in rounds])),
            ("of it: check", *percentiles([one.check for one in rounds])),
            ("of it: pack and hash", *percentiles([one.pack for one in rounds])),
            ("of it: send", *percentiles([one.send for one in rounds])),
            ("a bare SET of the bytes", *percentiles(bare)),
        ),
        raw={
            "check_seconds": [one.check for one in rounds],
            "pack_seconds": [one.pack for one in rounds],
            "send_seconds": [one.send for one in rounds],
            "set_seconds": bare,
            "cpu_seconds": [one.cpu_seconds for one in rounds],
        },
        note=f"CPU milliseconds of the producer for each submit: {median(cpu):.2f}.",
    )


@contextmanager
def packing() -> Iterator[Stopwatch]:
    """The time that `prepare` takes to pack latents and to hash what it packed."""
    watch = Stopwatch()
    with (
        patch.object(latents, "pack", watch.timed(latents.pack)),
        patch.object(submission, "request_hash", watch.timed(request_hash)),
    ):
        yield watch


def _set(client: redis.Redis, tensors: Sequence[latents.Latents]) -> list[float]:
    """Seconds of each SET of a latent's bytes, less than which nothing durable can cost."""
    seconds = []
    for place, held in enumerate(tensors):
        data, began = held.array.tobytes(), time.perf_counter()
        client.set(f"bench:{place}", data)
        seconds.append(time.perf_counter() - began)
    return seconds


def _round(farm: Farm, tensors: Sequence[latents.Latents], watch: Stopwatch) -> Samples:
    samples, cpu = Samples(), time.process_time()
    for held in tensors:
        watch.seconds, began = 0.0, time.perf_counter()
        job = farm.prepare(held.array, vae=VAE)
        prepared = time.perf_counter()
        farm.submit_prepared([job])
        samples.send.append(time.perf_counter() - prepared)
        samples.pack.append(watch.seconds)
        samples.check.append(prepared - began - watch.seconds)
    samples.cpu_seconds = time.process_time() - cpu
    return samples
