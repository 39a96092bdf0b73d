"""Whether the device waits for anything: at saturation, on an idle farm, and a generator for its submits."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Final, Literal

from vaefarm_producer import Job
from vaefarm_shared import latents
from vaefarm_shared.connection import connect

from . import workload
from .farm_under_test import JOB_SECONDS, VAE, FarmUnderTest, Options, farm_with
from .peers.producer import stopped
from .report import Figure, middle
from .stamping_worker import stamps

#: Seconds that the simulated device takes for a batch, and jobs of one: 256 x 256 pixels each.
BATCH_SECONDS: Final = 0.02
BATCH_JOBS: Final = 2
SHAPE: Final = (1, 4, 32, 32)
PIXELS: Final = 256 * 256

#: Seconds that the generator takes for one latent, and how many it makes in a round.
GENERATOR_SECONDS: Final = 0.2
GENERATED: Final = 25

#: What the generator does with a latent. `mapped`: it is the source of a `farm.map`, whose results nobody looks at.
#: `set`: a bare SET of its bytes, less than which no program that waits for something durable can cost.
Kind = Literal["submitted", "submitted elsewhere", "mapped", "set", "dropped"]
KINDS: Final[tuple[Kind, ...]] = ("submitted", "submitted elsewhere", "mapped", "set", "dropped")

#: Jobs of a round for each job of the options: a round at saturation lasts seconds.
SATURATION_JOBS: Final = 5


@dataclass(slots=True)
class Samples:
    """The figures of each round."""

    busy: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    called: list[list[float]] = field(default_factory=list)
    returned: list[list[float]] = field(default_factory=list)
    generated: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def of_dropped(self, kind: Kind) -> list[float]:
        """A generator's rates as shares of its rates when it drops."""
        return [rate / none for rate, none in zip(self.generated[kind], self.generated["dropped"], strict=True)]


def overlap(options: Options) -> Figure:
    """Rounds of all three against one farm."""
    tensors, samples = workload.noise(options.jobs * SATURATION_JOBS, SHAPE), Samples()
    command = [sys.executable, "-m", f"{__package__}.stamping_worker", VAE, str(BATCH_SECONDS)]
    with farm_with(options, command, batch_pixels=BATCH_JOBS * PIXELS) as running:
        saturate(running, tensors[: workload.WARM_UP_JOBS], Samples())
        for turn in range(options.rounds):
            saturate(running, tensors, samples)
            wake_ups = [wake_up(running, held) for held in tensors[: options.jobs]]
            samples.called.append([called for called, _ in wake_ups])
            samples.returned.append([returned for _, returned in wake_ups])
            for kind in KINDS if turn % 2 else reversed(KINDS):
                loop = mapped if kind == "mapped" else partial(generate, kind=kind)
                samples.generated[kind].append(loop(running, tensors[:GENERATED]))
    return Figure(
        title=f"overlap, a device of {BATCH_SECONDS * 1e3:.0f} ms for {BATCH_JOBS} jobs of 256 x 256, PNG of level 1",
        header=("", f"median of {options.rounds} (range)"),
        rows=rows(samples),
        raw={name: getattr(samples, name) for name in Samples.__slots__},
        note=(
            "By the clock that the decoder writes into each job's record. Busy: with a full queue, from the first"
            " decode's begin to the last one's end."
        ),
    )


def rows(samples: Samples) -> tuple[tuple[str, ...], ...]:
    """The table."""
    return (
        (f"device busy: batches of {BATCH_SECONDS * 1e3:.0f} ms / wall", middle(samples.busy, ".3f")),
        ("device busy: decode calls / wall", middle(samples.calls, ".3f")),
        ("jobs/s at saturation", middle(samples.rates, ".1f")),
        ("idle: call of submit to decode, p50 ms", middle([1e3 * median(one) for one in samples.called])),
        ("idle: return of submit to decode, p50 ms", middle([1e3 * median(one) for one in samples.returned])),
        *((f"generator: latents/s {kind}", middle(samples.generated[kind], ".3f")) for kind in KINDS),
        *((f"generator: {kind} / dropped", middle(samples.of_dropped(kind), ".4f")) for kind in KINDS[:-1]),
    )


def saturate(running: FarmUnderTest, tensors: Sequence[latents.Latents], samples: Samples) -> None:
    """Fill the queue while the worker stands still; let it go, and read when it decoded what."""
    with stopped(running.worker.pid):
        jobs = running.farm.submit_many(tensors, vae=VAE)
    reports = [job.result(JOB_SECONDS).report for job in await_all(running, jobs)]
    batches = {stamps(report) for report in reports}
    wall = max(ended for _, ended in batches) - min(begun for begun, _ in batches)
    samples.busy.append(len(batches) * BATCH_SECONDS / wall)
    samples.calls.append(sum(ended - begun for begun, ended in batches) / wall)
    samples.rates.append(len(jobs) / wall)


def await_all(running: FarmUnderTest, jobs: list[Job]) -> list[Job]:
    """The jobs once all have ended: reading records meanwhile would take the worker's time."""
    return list(running.farm.as_completed(jobs, timeout=JOB_SECONDS))


def wake_up(running: FarmUnderTest, held: latents.Latents) -> tuple[float, float]:
    """Seconds from the call of submit on an idle farm, and from its return, to the begin of the decode."""
    called = time.monotonic()
    job = running.farm.submit(held.array, vae=VAE)
    returned = time.monotonic()
    begun, _ = stamps(job.result(JOB_SECONDS).report)
    return begun - called, begun - returned


def generate(running: FarmUnderTest, tensors: Sequence[latents.Latents], kind: Kind) -> float:
    """Latents per second of a loop that takes `GENERATOR_SECONDS` for each, off this CPU, and does one thing with it.

    `submitted elsewhere`: the worker stands still meanwhile, as one that has a machine of its own takes nothing of
    the generator's.
    """
    connection, jobs = connect(running.server.url), []
    with stopped(running.worker.pid) if kind == "submitted elsewhere" else nullcontext():
        began = time.perf_counter()
        for held in tensors:
            time.sleep(GENERATOR_SECONDS)
            if kind == "set":
                connection.set("bench:latent", held.array.tobytes())
            elif kind != "dropped":
                jobs.append(running.farm.submit(held.array, vae=VAE))
        seconds = time.perf_counter() - began
    connection.close()
    await_all(running, jobs)
    return len(tensors) / seconds


def mapped(running: FarmUnderTest, tensors: Sequence[latents.Latents]) -> float:
    """As `generate`, of a generator that `farm.map` goes through."""
    times = list[float]()

    def source() -> Iterator[Any]:
        times.append(time.perf_counter())
        for held in tensors:
            time.sleep(GENERATOR_SECONDS)
            yield held.array
        times.append(time.perf_counter())

    assert sum(1 for _ in running.farm.map(source(), vae=VAE, timeout=JOB_SECONDS)) == len(tensors)
    began, ended = times
    return len(tensors) / (ended - began)
