"""From submit to the picture's bytes, one job in flight, next to the same decode and encode without a farm."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from vaefarm_shared import latents
from vaefarm_shared.records import DecodeReport

from . import workload
from .farm_under_test import JOB_SECONDS, VAE, Bare, FarmUnderTest, Options, farm_under_test
from .report import Figure, cpu_milliseconds, middle, percentiles

#: The seconds of a worker's report: enqueued to claimed, then what the bare loop does too.
REPORTED: Final = ("queued", "decode", "encode")


@dataclass(slots=True)
class Samples:
    """One round: each job's seconds, and the CPU seconds of all jobs by process."""

    total: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    reports: list[DecodeReport] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)

    def reported(self, name: str) -> list[float]:
        """One of the seconds that the worker's reports hold."""
        return [getattr(report, f"seconds_{name}") for report in self.reports]

    @property
    def overhead(self) -> list[float]:
        """What each job took above the bare decode and encode just after it."""
        return [total - bare for total, bare in zip(self.total, self.bare, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of what each job took as a multiple of the bare decode and encode just after it."""
        return median(total / bare for total, bare in zip(self.total, self.bare, strict=True))


def overhead(options: Options) -> Figure:
    """The farm's own share: a decoder that costs next to nothing, 128 KiB in, a JPEG of 1024 x 1024 out."""
    return _measure(options, "fake", workload.noise(options.jobs, (1, 4, 128, 128)), "jpeg")


def latency(options: Options) -> Figure:
    """The same with a real VAE, PNG out."""
    return _measure(options, "local", workload.demo(options.jobs), "png")


def _measure(options: Options, decoder: str, tensors: list[latents.Latents], image_format: str) -> Figure:
    bare = Bare(options, decoder)
    with farm_under_test(options, decoder) as running:
        _round(running, bare, tensors[: workload.WARM_UP_JOBS], image_format)
        rounds = [_round(running, bare, tensors, image_format) for _ in range(options.rounds)]
    threads = "" if decoder == "fake" else f", {options.threads} torch threads on {options.device}"
    return Figure(
        title=f"latency, 1 job in flight, {decoder} decoder{threads}, {image_format}, {workload.describe(tensors)}",
        header=("milliseconds", "p50", "p95", "p99"),
        rows=(
            ("submit to image", *percentiles([one.total for one in rounds])),
            ("bare decode and encode", *percentiles([one.bare for one in rounds])),
            ("difference", *percentiles([one.overhead for one in rounds])),
            *((f"in the worker: {name}", *percentiles([one.reported(name) for one in rounds])) for name in REPORTED),
        ),
        raw=_raw(rounds),
        note=_note(rounds, len(tensors)),
    )


def _round(running: FarmUnderTest, bare: Bare, tensors: Sequence[latents.Latents], image_format: str) -> Samples:
    """Each latent through the farm, then bare: both meet the same noise of the machine."""
    samples, before, bare_cpu = Samples(), running.cpu_seconds(), 0.0
    for held in tensors:
        began = time.perf_counter()
        result = running.farm.submit(held, vae=VAE, image_format=image_format).result(JOB_SECONDS)
        samples.total.append(time.perf_counter() - began)
        samples.reports.append(result.report)
        cpu, job = time.process_time(), running.farm.prepare(held, vae=VAE, image_format=image_format)
        began = time.perf_counter()
        bare.files(job, held)
        samples.bare.append(time.perf_counter() - began)
        bare_cpu += time.process_time() - cpu
    samples.cpu = {name: value - before[name] for name, value in running.cpu_seconds().items()}
    samples.cpu["producer"] -= bare_cpu
    samples.cpu["bare"] = bare_cpu
    return samples


def _note(rounds: list[Samples], count: int) -> str:
    cpu = cpu_milliseconds([one.cpu for one in rounds], count)
    parts = ", ".join(f"{name} {value:.1f}" for name, value in cpu.items())
    ratio = middle([one.ratio for one in rounds])
    return f"Farm / bare, p50 of each pair's ratio: {ratio}. CPU milliseconds for each job: {parts}."


def _raw(rounds: list[Samples]) -> dict[str, object]:
    seconds = {f"{name}_seconds": [one.reported(name) for one in rounds] for name in REPORTED}
    return seconds | {
        "total_seconds": [one.total for one in rounds],
        "bare_seconds": [one.bare for one in rounds],
        "cpu_seconds": [one.cpu for one in rounds],
    }
