"""Images per second through a farm of one worker, against a bare loop of the same decoder and encoder."""

import time
from dataclasses import dataclass

from vaefarm_shared import latents

from . import workload
from .farm_under_test import JOB_SECONDS, VAE, Bare, FarmUnderTest, Options, farm_under_test
from .report import Figure, cpu_milliseconds, middle


@dataclass(frozen=True, slots=True)
class Pass:
    """All latents once: wall-clock and CPU seconds, and the pictures."""

    seconds: float
    cpu_seconds: dict[str, float]
    files: list[bytes]


def throughput(options: Options) -> Figure:
    """Rounds of farm and bare loop, taking turns at going first."""
    tensors = workload.demo(options.jobs)
    bare = Bare(options, "local")
    farms, bares = [], []
    with farm_under_test(options, "local") as running:
        through_farm(running, tensors[: workload.WARM_UP_JOBS])
        through_bare(running, bare, tensors[: workload.WARM_UP_JOBS])
        for place in range(options.rounds):
            if place % 2:
                bares.append(through_bare(running, bare, tensors))
            farms.append(through_farm(running, tensors))
            if not place % 2:
                bares.append(through_bare(running, bare, tensors))
    title = f"throughput, {workload.describe(tensors)}, png, {options.threads} torch threads on {options.device}"
    return Figure(title, ("", "farm", "bare", "farm / bare"), tuple(rows(farms, bares)), raw(farms, bares))


def through_farm(running: FarmUnderTest, tensors: list[latents.Latents]) -> Pass:
    """Submit all, take each picture as its job ends."""
    before, began = running.cpu_seconds(), time.perf_counter()
    jobs = running.farm.submit_many(tensors, vae=VAE)
    files = {job.id: job.fetch().data[0] for job in running.farm.as_completed(jobs, timeout=JOB_SECONDS)}
    seconds = time.perf_counter() - began
    after = running.cpu_seconds()
    return Pass(seconds, {name: after[name] - before[name] for name in after}, [files[job.id] for job in jobs])


def through_bare(running: FarmUnderTest, bare: Bare, tensors: list[latents.Latents]) -> Pass:
    """The same pictures in this process, one after another."""
    jobs = [running.farm.prepare(held, vae=VAE) for held in tensors]
    cpu, began = time.process_time(), time.perf_counter()
    files = [bare.files(job, held)[0] for job, held in zip(jobs, tensors, strict=True)]
    return Pass(time.perf_counter() - began, {"process": time.process_time() - cpu}, files)


def rows(farms: list[Pass], bares: list[Pass]) -> list[tuple[str, ...]]:
    """images/s, then CPU milliseconds for each image; medians, with the least and the greatest of the rounds."""
    pairs, count = list(zip(farms, bares, strict=True)), len(farms[0].files)
    ratio = middle([bare.seconds / farm.seconds for farm, bare in pairs])
    cpu_ratio = middle([sum(farm.cpu_seconds.values()) / sum(bare.cpu_seconds.values()) for farm, bare in pairs])
    farm_cpu = middle([1e3 * sum(one.cpu_seconds.values()) / count for one in farms], ".1f")
    bare_cpu = middle([1e3 * sum(one.cpu_seconds.values()) / count for one in bares], ".1f")
    cpu = cpu_milliseconds([one.cpu_seconds for one in farms], count)
    parts = [(f"of it: {name}", f"{value:.1f}", "", "") for name, value in cpu.items()]
    equal = sum(left == right for left, right in zip(farms[0].files, bares[0].files, strict=True))
    return [
        (
            "images/s",
            middle([count / one.seconds for one in farms]),
            middle([count / one.seconds for one in bares]),
            ratio,
        ),
        ("CPU ms for each image", farm_cpu, bare_cpu, cpu_ratio),
        *parts,
        ("pictures equal to the bare loop's, byte for byte", f"{equal} of {count}", "", ""),
    ]


def raw(farms: list[Pass], bares: list[Pass]) -> dict[str, object]:
    """Each round's seconds."""
    passes = {"farm": farms, "bare": bares}
    return {f"{name}_seconds": [one.seconds for one in those] for name, those in passes.items()} | {
        f"{name}_cpu_seconds": [one.cpu_seconds for one in those] for name, those in passes.items()
    }
