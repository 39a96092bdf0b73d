"""A farm that forwards to another farm, beside what the other gives directly."""

import asyncio
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import aiohttp

from vaefarm_producer import Farm, Job
from vaefarm_producer.local.processes import worker_command
from vaefarm_shared import latents
from vaefarm_shared.connection import connect
from vaefarm_shared.events import START, Event, read_events
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus

from . import cpu, workload
from .depth import BUDGET_BYTES
from .farm_under_test import JOB_SECONDS, VAE, FarmUnderTest, Options, farm_with
from .forwarding import forwarder_command, write_catalogue
from .gateway import clean_environment, serving
from .report import Figure, Row, middle

#: Requests that one worker, and the plain client beside it, have in flight.
IN_FLIGHT: Final = 32

#: Latents of pictures of 256 x 256, and a picture's pixels.
SHAPE: Final = (1, 4, 32, 32)
PIXELS: Final = 256 * 256

#: Who asks farm B: farm A's worker, a plain client of its Hugging Face door, a client of its own.
SIDES: Final = ("chain", "door", "client")


@dataclass(frozen=True, slots=True)
class Device:
    """What farm B decodes with."""

    name: str
    #: Pictures each second of a simulated device, infinity for one that takes no time; None for the demo's VAE.
    rate: float | None
    #: Jobs of a round.
    jobs: int

    def command(self, options: Options) -> list[str]:
        """The command of farm B's worker."""
        if self.rate is None:
            return worker_command(VAE, options.device)
        return [*worker_command(VAE, "cpu"), "--decoder", "fake", "--fake-seconds", str(1 / self.rate)]

    @property
    def settings(self) -> dict[str, int]:
        """Settings of farm B: a simulated device takes one picture at a time."""
        return {"budget_bytes": BUDGET_BYTES} | ({} if self.rate is None else {"batch_pixels": PIXELS})


DEVICES: Final = (
    Device("20 pictures/s", 20, 60),
    Device("60 pictures/s", 60, 180),
    Device("no time", math.inf, 300),
    Device("demo's VAE", None, 80),
)


@dataclass(frozen=True, slots=True)
class Pass:
    """One burst: seconds, CPU seconds of each process, and the most jobs that farm B had at a time."""

    jobs: int
    seconds: float
    cpu_seconds: dict[str, float]
    most_at_once: int


Passes = dict[str, list[Pass]]


@dataclass(frozen=True, slots=True)
class Chain:
    """Farm A, whose worker forwards to the gateway of farm B."""

    front: FarmUnderTest
    back: FarmUnderTest
    gateway: "subprocess.Popen[bytes]"
    url: str
    client: Farm

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds that each process has used so far."""
        front, back = self.front.cpu_seconds(), self.back.cpu_seconds()
        return {
            "client": front["producer"],
            "A's Redis": front["redis"],
            "A's worker": front["worker"],
            "B's gateway": cpu.family_seconds(self.gateway.pid),
            "B's Redis": back["redis"],
            "B's worker": back["worker"],
        }

    def ask(self, side: str, tensors: Sequence[latents.Latents]) -> list[Job]:
        """Have all decoded; return once every picture is in hand. The jobs that are the asker's own."""
        if side != "door":
            return take_all(self.front.farm if side == "chain" else self.client, tensors)
        asyncio.run(ask_door(f"{self.url}/hf/{VAE}", tensors))
        return []


def remote_chain(options: Options) -> Figure:
    """For each device of farm B, the three sides in turn."""
    results: dict[str, Passes] = {}
    for device in DEVICES:
        tensors = workload.demo(device.jobs) if device.rate is None else workload.noise(device.jobs, SHAPE)
        with chain(options, device) as running:
            passes: Passes = {side: [] for side in SIDES}
            for side in SIDES:
                running.ask(side, tensors[: workload.WARM_UP_JOBS])
            for turn in range(options.rounds):
                for place in range(len(SIDES)):
                    side = SIDES[(turn + place) % len(SIDES)]
                    passes[side].append(one_pass(running, side, tensors))
        results[device.name] = passes
    return Figure(
        title=f"a farm that forwards to another, {IN_FLIGHT} in flight; farm B's device, jobs of a round",
        header=("", *(f"{device.name}, {device.jobs} jobs" for device in DEVICES)),
        rows=tuple(rows(list(results.values()))),
        raw={name: passes for name, passes in results.items()},
        note=(
            "Pictures of 256 x 256 as PNG, each in the client's hands. All processes share this machine; the simulated"
            " devices take no CPU for a decode, the demo's VAE nearly all of it."
        ),
    )


@contextmanager
def chain(options: Options, device: Device) -> Iterator[Chain]:
    """Both farms, once both serve."""
    with ExitStack() as stack:
        back = stack.enter_context(farm_with(options, device.command(options), **device.settings))
        log = stack.enter_context((back.server.folder / "gateway.log").open("wb"))
        url, gateway = stack.enter_context(serving(clean_environment(back.server.url, options), log))
        catalogue = write_catalogue(back.server.folder / "a.toml", [f"{url}/hf/{VAE}"], concurrency=IN_FLIGHT)
        front = stack.enter_context(farm_with(options, forwarder_command(catalogue), budget_bytes=BUDGET_BYTES))
        yield Chain(front, back, gateway, url, stack.enter_context(Farm(url)))


def one_pass(running: Chain, side: str, tensors: Sequence[latents.Latents]) -> Pass:
    """A burst of one side."""
    connection = connect(running.back.server.url)
    after = newest_event(connection)
    before, began = running.cpu_seconds(), time.perf_counter()
    jobs = running.ask(side, tensors)
    seconds, spent = time.perf_counter() - began, running.cpu_seconds()
    events = list(events_after(connection, after))
    connection.close()
    for job in jobs:
        job.discard()
    used = {name: spent[name] - before[name] for name in spent}
    return Pass(len(tensors), seconds, used, most_at_once(events))


def take_all(farm: Farm, tensors: Sequence[latents.Latents]) -> list[Job]:
    """Submit all, and take each picture as its job ends."""
    jobs = farm.submit_many(tensors, vae=VAE)
    for job in farm.as_completed(jobs, timeout=JOB_SECONDS):
        assert job.fetch().data[0]
    return jobs


async def ask_door(url: str, tensors: Sequence[latents.Latents]) -> None:
    """Ask a Hugging Face door for all, IN_FLIGHT at a time."""
    waiting = iter(tensors)
    timeout = aiohttp.ClientTimeout(total=JOB_SECONDS)

    async def take_turns(client: aiohttp.ClientSession) -> None:
        for held in waiting:
            params = [("output_type", "pil"), ("image_format", "png"), ("dtype", held.dtype), ("do_scaling", "True")]
            params += [("shape", str(side)) for side in held.array.shape]
            headers = {"Content-Type": "tensor/binary", "Accept": "image/png"}
            async with client.post(url, params=params, headers=headers, data=held.array.tobytes()) as answer:
                answer.raise_for_status()
                assert await answer.read()

    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        await asyncio.gather(*(take_turns(client) for _ in range(IN_FLIGHT)))


def newest_event(connection: Any) -> str:
    """The id of the newest event of a farm."""
    found = START
    for event in events_after(connection, START):
        found = event.id
    return found


def events_after(connection: Any, after: str) -> Iterator[Event]:
    """The events of a farm after the one of that id."""
    while page := read_events(connection, after):
        yield from page
        after = page[-1].id


def most_at_once(events: Sequence[Event]) -> int:
    """The most jobs that were there at a time and had not ended."""
    there: set[str] = set()
    most = 0
    for event in events:
        if event.status is JobStatus.QUEUED:
            there.add(event.job_id)
        elif event.status in TERMINAL_STATUSES:
            there.discard(event.job_id)
        most = max(most, len(there))
    return most


def rows(results: list[Passes]) -> Iterator[Row]:
    """The table: a column for each device of farm B."""
    told: dict[str, Callable[[Passes], str]] = {
        "jobs/s through farm A": lambda passes: rate(passes["chain"]),
        f"jobs/s of B's Hugging Face door, {IN_FLIGHT} in flight": lambda passes: rate(passes["door"]),
        "jobs/s of Farm('http://B')": lambda passes: rate(passes["client"]),
        "through A / door": lambda passes: ratio(passes, "door"),
        "through A / Farm('http://B')": lambda passes: ratio(passes, "client"),
        "most in flight at B, through A": lambda passes: str(max(one.most_at_once for one in passes["chain"])),
        "most in flight at B, door": lambda passes: str(max(one.most_at_once for one in passes["door"])),
    }
    for name, tell in told.items():
        yield (name, *(tell(passes) for passes in results))
    for side, whose in (("chain", "through A"), ("door", "door")):
        for process in results[0][side][0].cpu_seconds:
            if side == "chain" or not process.startswith("A's"):
                yield (f"CPU ms a job, {whose}: {process}", *(cpu_of(passes[side], process) for passes in results))


def rate(passes: Sequence[Pass]) -> str:
    """Jobs per second of these rounds."""
    return middle([one.jobs / one.seconds for one in passes], ".1f")


def ratio(passes: Passes, side: str) -> str:
    """The chain's rate as a part of another's, round by round."""
    return middle([other.seconds / one.seconds for one, other in zip(passes["chain"], passes[side], strict=True)])


def cpu_of(passes: Sequence[Pass], process: str) -> str:
    """CPU milliseconds of a process for each job, the median of these rounds."""
    return f"{median(1e3 * one.cpu_seconds[process] / one.jobs for one in passes):.1f}"
