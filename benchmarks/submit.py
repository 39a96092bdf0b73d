"""What a producer pays for a submit: checks and packing, then the send until it is acknowledged. No worker runs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from vaefarm_producer import Farm
from vaefarm_shared import latents

from . import workload
from .farm_under_test import VAE, Options, local_redis
from .report import Figure, percentiles


@dataclass(slots=True)
class Samples:
    """One round: each submit's seconds, in its two parts, and the CPU seconds of all."""

    prepare: list[float] = field(default_factory=list)
    send: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @property
    def both(self) -> list[float]:
        """Each submit's seconds."""
        return [prepare + send for prepare, send in zip(self.prepare, self.send, strict=True)]


def submit(options: Options) -> Figure:
    """Latents of 128 KiB as NumPy arrays, one after another."""
    tensors = workload.noise(options.jobs, (1, 4, 128, 128))
    with local_redis(options) as server, Farm(server.url) as farm:
        _round(farm, tensors[: workload.WARM_UP_JOBS])
        rounds = [_round(farm, tensors) for _ in range(options.rounds)]
    cpu = [1e3 * one.cpu_seconds / len(tensors) for one in rounds]
    return Figure(
        title=f"submit, {workload.describe(tensors)}",
        header=("milliseconds", "p50", "p95", "p99"),
        rows=(
            ("submit", *percentiles([one.both for one in rounds])),
            ("of it: check and pack", *percentiles([one.prepare for one in rounds])),
            ("of it: send", *percentiles([one.send for one in rounds])),
        ),
        raw={
            "prepare_seconds": [one.prepare for one in rounds],
            "send_seconds": [one.send for one in rounds],
            "cpu_seconds": [one.cpu_seconds for one in rounds],
        },
        note=f"CPU milliseconds of the producer for each submit: {median(cpu):.2f}.",
    )


def _round(farm: Farm, tensors: Sequence[latents.Latents]) -> Samples:
    samples, cpu = Samples(), time.process_time()
    for held in tensors:
        began = time.perf_counter()
        job = farm.prepare(held.array, vae=VAE)
        prepared = time.perf_counter()
        farm.submit_prepared([job])
        samples.send.append(time.perf_counter() - prepared)
        samples.prepare.append(prepared - began)
    samples.cpu_seconds = time.process_time() - cpu
    return samples
