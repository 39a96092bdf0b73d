"""The queueing scenario of Hugging Face's post: a generator, and endpoints that take their time for each latent."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import torch

from vaefarm_producer import Farm
from vaefarm_shared import latents

from . import workload
from .farm_under_test import JOB_SECONDS, VAE, Options, farm_with
from .forwarding import endpoint, forwarder_command, write_catalogue
from .posts_script import posts_script
from .report import Figure, Row, middle

#: Seconds that the generator takes for a latent, and an endpoint for a picture.
GENERATOR_SECONDS: Final = (0.05, 0.1, 0.2)
ENDPOINT_SECONDS: Final = (0.1, 0.3)

#: Pictures that an endpoint makes at a time: one, as Hugging Face's servers do, or (0) as many as are asked for.
AT_A_TIME: Final = {"one at a time": 1, "any number": 0}

#: Latents of a round, as many as the post has prompts, of pictures of 512 x 512; before the first round two of them.
GENERATED: Final = 6
WARM_UP: Final = 2
SHAPE: Final = (1, 4, 64, 64)

#: Endpoints of the farm that has several.
SEVERAL: Final = 3

#: Who has the latents decoded.
SIDES: Final = ("script", "farm of one", "farm of several")


@dataclass(slots=True)
class Cell:
    """One row of the table: the seconds of each side's rounds."""

    kind: str
    generator_seconds: float
    endpoint_seconds: float
    seconds: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})

    @property
    def ideal_seconds(self) -> float:
        """When the last picture of endless endpoints is there."""
        return GENERATED * self.generator_seconds + self.endpoint_seconds

    def row(self) -> Row:
        """The cell in the table, with the farm's gain round by round."""
        script = self.seconds["script"]
        gains = [
            f"{median(one / mine for one, mine in zip(script, self.seconds[side], strict=True)):.2f}"
            for side in SIDES[1:]
        ]
        times = (middle(self.seconds[side]) for side in SIDES)
        shown = (self.kind, f"{1e3 * self.generator_seconds:.0f}", f"{1e3 * self.endpoint_seconds:.0f}")
        return (*shown, *times, f"{self.ideal_seconds:.2f}", *gains)


Run = Callable[[Sequence[latents.Latents], float], float]


def remote_queue(options: Options) -> Figure:
    """For each endpoint, the three sides in turn."""
    tensors, cells = workload.noise(GENERATED, SHAPE), []
    for (kind, at_a_time), endpoint_seconds in product(AT_A_TIME.items(), ENDPOINT_SECONDS):
        row = [Cell(kind, seconds, endpoint_seconds) for seconds in GENERATOR_SECONDS]
        with three_sides(options, endpoint_seconds, at_a_time) as sides:
            for run in sides.values():
                run(tensors[:WARM_UP], 0.0)
            for turn, cell in product(range(options.rounds), row):
                for place in range(len(SIDES)):
                    side = SIDES[(turn + place) % len(SIDES)]
                    cell.seconds[side].append(sides[side](tensors, cell.generator_seconds))
        cells += row
    return Figure(
        title=f"{GENERATED} pictures of 512 x 512, wall seconds to the last; generator and endpoint in ms each",
        header=(
            *("an endpoint makes", "generator", "endpoint", "post's script, 1 endpoint", "farm, 1 endpoint"),
            *(f"farm, {SEVERAL} endpoints", "ideal", "script / farm of 1", f"script / farm of {SEVERAL}"),
        ),
        rows=tuple(cell.row() for cell in cells),
        raw={"cells": [(one.kind, one.generator_seconds, one.endpoint_seconds, one.seconds) for one in cells]},
        note=(
            "Ideal: all generated, and the endpoint's time once. One endpoint that makes one at a time takes at least"
            f" {GENERATED} times its own time, whoever asks: there a farm can only be as quick as the script."
        ),
    )


@contextmanager
def three_sides(options: Options, endpoint_seconds: float, at_a_time: int) -> Iterator[dict[str, Run]]:
    """What runs each side, against endpoints of their own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="vaefarm-bench-", dir=options.folder)))
        log = stack.enter_context((folder / "endpoints.log").open("wb"))
        start = partial(endpoint, endpoint_seconds, at_a_time, log)
        urls = [stack.enter_context(start()).url for _ in range(SEVERAL)]
        farms = []
        for count in (1, SEVERAL):
            catalogue = write_catalogue(folder / f"{count}.toml", urls[:count])
            farms.append(stack.enter_context(farm_with(options, forwarder_command(catalogue))).farm)
        runs = (partial(through_script, urls[0]), *(partial(through_farm, farm) for farm in farms))
        yield dict(zip(SIDES, runs, strict=True))


def through_script(url: str, tensors: Sequence[latents.Latents], generator_seconds: float) -> float:
    """Seconds of the post's script."""
    return posts_script(url, [torch.from_numpy(held.array) for held in tensors], generator_seconds)


def through_farm(farm: Farm, tensors: Sequence[latents.Latents], generator_seconds: float) -> float:
    """Seconds of a generator that submits, and takes the pictures once it is done."""
    began, jobs = time.perf_counter(), []
    for held in tensors:
        time.sleep(generator_seconds)
        jobs.append(farm.submit(held.array, vae=VAE, image_format="jpeg"))
    for job in farm.as_completed(jobs, timeout=JOB_SECONDS):
        job.image()
    return time.perf_counter() - began
