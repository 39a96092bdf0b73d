"""An endpoint that dies while it is asked, and comes back, beside a local device: where the work goes meanwhile."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from vaefarm_producer.local.processes import worker_command
from vaefarm_shared.connection import connect
from vaefarm_shared.events import read_events
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus
from vaefarm_shared.records import DecodeReport

from . import workload
from .depth import BUDGET_BYTES
from .farm_under_test import JOB_SECONDS, VAE, FarmUnderTest, Options, farm_with
from .forwarding import ServedEndpoint, endpoint, write_catalogue
from .remote_chain import PIXELS, SHAPE, newest_event
from .report import Figure, middle

#: Pictures each second of the local device, which takes one at a time, and of the endpoint, which does so too.
LOCAL_RATE: Final = 10
ENDPOINT_RATE: Final = 60

#: Seconds of the windows in which jobs are counted: before the endpoint dies, while it is away, after its return.
WINDOW_SECONDS: Final = 6.0

#: Seconds within which a worker must ask an endpoint that serves again.
RETURN_SECONDS: Final = 90.0

#: Pictures of a new endpoint's process after which it counts as in use: more than a probe or two.
IN_USE: Final = 10

#: Jobs that always wait, and how many are submitted at once.
BACKLOG: Final = 150
CHUNK: Final = 50

#: Seconds between two looks at the farm.
LOOK_SECONDS: Final = 0.05


@dataclass(slots=True)
class Load:
    """A farm that always has a backlog, and when each of its jobs ended."""

    running: FarmUnderTest
    connection: Any
    after: str
    submitted: list[str] = field(default_factory=list)
    #: When a job ended, Unix seconds by Redis' clock, and how.
    ended: dict[str, tuple[float, JobStatus]] = field(default_factory=dict)

    def keep_until(self, done: Callable[[], bool], seconds: float) -> None:
        """Submit as jobs end, until `done`. Raises RuntimeError after that many seconds."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError(f"what was waited for did not come within {seconds:.0f} seconds")
            if len(self.submitted) - len(self.ended) < BACKLOG:
                jobs = self.running.farm.submit_many(workload.noise(CHUNK, SHAPE), vae=VAE)
                self.submitted += [job.id for job in jobs]
            self.look()
            time.sleep(LOOK_SECONDS)

    def keep_for(self, seconds: float) -> None:
        """Submit as jobs end, for that many seconds."""
        until = time.monotonic() + seconds
        self.keep_until(lambda: time.monotonic() >= until, JOB_SECONDS)

    def finish(self) -> None:
        """Submit nothing more; return once all have ended, or the farm's time is up: those that have not are lost."""
        deadline = time.monotonic() + JOB_SECONDS
        while len(self.ended) < len(self.submitted) and time.monotonic() < deadline:
            self.look()
            time.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Read what has ended meanwhile."""
        while page := read_events(self.connection, self.after):
            for event in page:
                if event.status in TERMINAL_STATUSES:
                    self.ended.setdefault(event.job_id, (int(event.id.partition("-")[0]) / 1e3, event.status))
            self.after = page[-1].id


@dataclass(frozen=True, slots=True)
class Pass:
    """One death and return. Times are Unix seconds."""

    killed_at: float
    serves_at: float
    #: When the endpoint's first picture after its return was there.
    back_at: float
    #: When each job ended, and the endpoint that decoded it, None for the local device.
    ends: list[tuple[float, str | None]]
    lost: int
    most_attempts: int

    def rate(self, begin: float, end: float, *, remote: bool | None = None) -> float:
        """Jobs that ended each second of a window: all, those of the endpoint, or those of the local device."""
        counted = [when for when, name in self.ends if remote is None or (name is not None) == remote]
        return sum(begin <= when < end for when in counted) / (end - begin)

    @property
    def longest_pause(self) -> float:
        """The longest time without a job's end, from the endpoint's death to its return."""
        times = sorted(when for when, _ in self.ends if self.killed_at <= when < self.serves_at)
        return max(
            later - sooner for sooner, later in zip([self.killed_at, *times], [*times, self.serves_at], strict=True)
        )


def remote_failover(options: Options) -> Figure:
    """Rounds of one farm, each with an endpoint's death."""
    passes: list[Pass] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="vaefarm-bench-", dir=options.folder)))
        log = stack.enter_context((folder / "endpoint.log").open("wb"))
        served = stack.enter_context(endpoint(1 / ENDPOINT_RATE, 1, log))
        catalogue = write_catalogue(folder / "catalogue.toml", [served.url])
        command = [*worker_command(VAE, "cpu"), "--decoder", "fake", "--fake-seconds", str(1 / LOCAL_RATE)]
        command += ["--remote", VAE, "--catalogue", str(catalogue)]
        running = stack.enter_context(farm_with(options, command, budget_bytes=BUDGET_BYTES, batch_pixels=PIXELS))
        for _ in range(options.rounds):
            passes.append(one_pass(running, served))
    return Figure(
        title=(
            f"an endpoint of {ENDPOINT_RATE} pictures/s that is killed under load, beside a local device of"
            f" {LOCAL_RATE} pictures/s"
        ),
        header=("", f"median of {options.rounds} (range)"),
        rows=rows(passes),
        raw={"passes": passes},
        note=(
            f"Windows of {WINDOW_SECONDS:.0f} s: up to the death, from it on, and from the first picture after the"
            f" return; at least {BACKLOG - CHUNK} jobs wait always. The endpoint is killed (SIGKILL), and its port"
            " refuses until it is started again."
        ),
    )


def one_pass(running: FarmUnderTest, served: ServedEndpoint) -> Pass:
    """Load with the endpoint, without it, and with it again; then nothing more, until every job has ended."""
    connection = connect(running.server.url)
    load = Load(running, connection, newest_event(connection))
    load.keep_until(lambda: is_used(served), RETURN_SECONDS)
    load.keep_for(WINDOW_SECONDS)
    killed_at = time.time()
    served.kill()
    load.keep_for(WINDOW_SECONDS)
    served.start()
    serves_at = time.time()
    load.keep_until(lambda: is_used(served), RETURN_SECONDS)
    load.keep_for(WINDOW_SECONDS)
    load.finish()
    connection.close()
    records = [running.farm.job(job_id).record() for job_id in load.submitted]
    reports = [record.report for record in records if record.report is not None]
    for job_id in load.submitted:
        running.farm.job(job_id).discard()
    ends = [(load.ended[record.id][0], record.report.endpoint) for record in records if record.report is not None]
    lost = sum(load.ended.get(job_id, (0.0, None))[1] is not JobStatus.FINISHED for job_id in load.submitted)
    back_at = min(when for when, name in ends if name is not None and when >= serves_at)
    return Pass(killed_at, serves_at, back_at, ends, lost, most_attempts(reports))


def is_used(served: ServedEndpoint) -> bool:
    """Whether the endpoint's process has made more than the pictures of a probe."""
    return (served.counts() or {}).get("answered", 0) >= IN_USE


def most_attempts(reports: Sequence[DecodeReport]) -> int:
    """The most attempts that any job took."""
    return max(report.attempt for report in reports)


def rows(passes: Sequence[Pass]) -> tuple[tuple[str, ...], ...]:
    """The table."""
    window = WINDOW_SECONDS

    def rate(begin: Callable[[Pass], float], remote: bool | None = None) -> str:
        return middle([one.rate(begin(one), begin(one) + window, remote=remote) for one in passes], ".1f")

    return (
        ("jobs/s before", rate(lambda one: one.killed_at - window)),
        ("of it the endpoint's", rate(lambda one: one.killed_at - window, True)),
        ("jobs/s while it is away", rate(lambda one: one.killed_at)),
        ("of it the endpoint's", rate(lambda one: one.killed_at, True)),
        ("longest time without a job's end, s", middle([one.longest_pause for one in passes])),
        ("from when it serves again to its first picture, s", middle([one.back_at - one.serves_at for one in passes])),
        ("jobs/s after", rate(lambda one: one.back_at)),
        ("of it the endpoint's", rate(lambda one: one.back_at, True)),
        ("jobs in all, of a round", f"{median(len(one.ends) for one in passes):.0f}"),
        ("jobs lost, of all rounds", str(sum(one.lost for one in passes))),
        ("most attempts that a job took", str(max(one.most_attempts for one in passes))),
    )
