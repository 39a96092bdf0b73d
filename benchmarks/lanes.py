"""What a small producer waits behind a large one, and what that costs the large one: with fair lanes, and without."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import numpy as np

from vaefarm_producer import Farm, Job
from vaefarm_producer.local.processes import worker_command

from . import workload
from .farm_under_test import VAE, FarmUnderTest, Options, farm_with
from .report import Figure, middle

#: Jobs of the first producer for each job of the options, 5,000 for their 200; the second's come once so many of those
#: have been delivered, all at once.
FIRST_JOBS: Final = 25
SECOND_JOBS: Final = 50
DELIVERED_BEFORE: Final = 0.1

#: Seconds that the simulated device takes for a batch, and jobs of one: 80 jobs/s.
BATCH_SECONDS: Final = 0.05
BATCH_JOBS: Final = 4
SHAPE: Final = (1, 4, 16, 16)
PIXELS: Final = 128 * 128

#: Seconds that a round may take.
ROUND_SECONDS: Final = 900.0

#: The lanes of the two, by how the figure names them.
LANES: Final = {"one lane": ("default", "default"), "a lane each": ("first", "second")}


@dataclass(slots=True)
class Round:
    """Seconds: of each of the second's jobs from submit to picture; when the first's pictures came, from its submit."""

    waits: list[float] = field(default_factory=list)
    came: list[float] = field(default_factory=list)
    #: When the second's jobs were submitted, and when its last picture came, from the first's submit.
    began: float = 0.0
    ended: float = 0.0

    @property
    def rate(self) -> float:
        """Jobs a second of the first, all of them."""
        return len(self.came) / self.came[-1]

    @property
    def rate_beside(self) -> float:
        """Jobs a second of the first while the second waited."""
        end = min(self.ended, self.came[-1])
        return sum(self.began <= one <= end for one in self.came) / (end - self.began)


def lanes(options: Options) -> Figure:
    """Rounds of both, taking turns at going first."""
    rounds: dict[str, list[Round]] = {name: [] for name in LANES}
    command = [*worker_command(VAE, options.device), "--decoder", "fake", "--fake-seconds", str(BATCH_SECONDS)]
    count = options.jobs * FIRST_JOBS
    with farm_with(options, command, batch_pixels=BATCH_JOBS * PIXELS) as running:
        Crowded(running, workload.WARM_UP_JOBS).run(*LANES["one lane"])
        for turn in range(options.rounds):
            for name in LANES if turn % 2 else reversed(LANES):
                rounds[name].append(Crowded(running, count).run(*LANES[name]))
    return Figure(
        title=(
            f"lanes, {SECOND_JOBS} jobs of a second producer behind {count} of a first, a device of"
            f" {BATCH_SECONDS * 1e3:.0f} ms for {BATCH_JOBS} jobs"
        ),
        header=("", *LANES, "a lane each / one lane"),
        rows=(
            row("second: submit to picture, p50 s", {name: waits(own, 50) for name, own in rounds.items()}),
            row("second: submit to picture, p95 s", {name: waits(own, 95) for name, own in rounds.items()}),
            row("first: jobs/s, all of its jobs", {name: [one.rate for one in own] for name, own in rounds.items()}),
            row(
                "first: jobs/s while the second waits",
                {name: [one.rate_beside for one in own] for name, own in rounds.items()},
            ),
        ),
        raw={name: [[one.waits, one.came, one.began, one.ended] for one in own] for name, own in rounds.items()},
        note=(
            f"The second's jobs are submitted at once when {DELIVERED_BEFORE:.0%} of the first's pictures have come."
            " Both take each picture as it comes."
        ),
    )


def waits(rounds: list[Round], percent: int) -> list[float]:
    """A percentile of the second's waits, of each round."""
    return [float(np.percentile(one.waits, percent)) for one in rounds]


def row(name: str, values: dict[str, list[float]]) -> tuple[str, ...]:
    """Both medians, and the median of the rounds' ratios."""
    one, each = (values[lane] for lane in LANES)
    ratio = median(right / left for left, right in zip(one, each, strict=True))
    return (name, middle(one), middle(each), f"{ratio:.3f}")


class Crowded:
    """A farm that a first producer has filled when a second comes."""

    def __init__(self, running: FarmUnderTest, count: int) -> None:
        self._running = running
        self._tensors = workload.noise(count, SHAPE)
        self._before = int(count * DELIVERED_BEFORE)
        self._is_crowded = threading.Event()
        self._round = Round()
        self._began = 0.0

    def run(self, first: str, second: str) -> Round:
        """Both producers, by the lanes that they name; each has connections of its own."""
        self._began = time.perf_counter()
        jobs = self._running.farm.submit_many(self._tensors, vae=VAE, producer=first)
        tensors = workload.noise(SECOND_JOBS, SHAPE)
        with ThreadPoolExecutor(1) as pool, Farm(self._running.server.url) as farm:
            following = pool.submit(self._follow, jobs)
            assert self._is_crowded.wait(ROUND_SECONDS), "the first producer's jobs do not end"
            began = time.perf_counter()
            for job in farm.as_completed(
                farm.submit_many(tensors, vae=VAE, producer=second), timeout=ROUND_SECONDS, discard=True
            ):
                assert job.fetch().data[0], "a picture of nothing"
                self._round.waits.append(time.perf_counter() - began)
            self._round.began, self._round.ended = began - self._began, time.perf_counter() - self._began
            following.result()
        return self._round

    def _follow(self, jobs: list[Job]) -> None:
        """Take the first's pictures as they come."""
        for job in self._running.farm.as_completed(jobs, timeout=ROUND_SECONDS, discard=True):
            assert job.fetch().data[0], "a picture of nothing"
            self._round.came.append(time.perf_counter() - self._began)
            if len(self._round.came) >= self._before:
                self._is_crowded.set()
