"""The tables of a picture of the farm: VAEs, workers, newest failures. Whatever others wrote is text, never markup."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaefarm_shared.overview import Overview, RecentFailure, VaeOverview, WorkerOverview, busiest_first
from vaefarm_shared.queues import PRIORITIES

from ..plain_text import plain
from ..readable import count, duration, rate, share

#: Columns of a terminal from which there is room for all that is told.
WIDE: Final[int] = 110


@dataclass(frozen=True, slots=True)
class Column:
    """One column: names grow with the terminal, figures are as wide as they are."""

    title: str
    ratio: int | None = None
    is_figure: bool = False
    #: Whether it is left out of a narrow terminal.
    is_extra: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A table that is cut to the rows that there is room for."""

    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Text]]
    #: What stands in its place where there is no row.
    nothing: str

    @property
    def height(self) -> int:
        """Lines of the whole of it."""
        return 1 + len(self.rows)

    def drawn(self, width: int, height: int | None = None) -> RenderableType:
        """It in so many lines; all of it where there is no limit."""
        if not self.rows:
            return Text(self.nothing, "dim")
        most = len(self.rows) if height is None or height >= self.height else max(0, height - 2)
        shown = [place for place, one in enumerate(self.columns) if width >= WIDE or not one.is_extra]
        table = Table(box=None, expand=True, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for place in shown:
            column = self.columns[place]
            table.add_column(
                column.title,
                justify="right" if column.is_figure else "left",
                no_wrap=True,
                overflow="ellipsis",
                ratio=column.ratio,
            )
        for row in self.rows[:most]:
            table.add_row(*(row[place] for place in shown))
        left = len(self.rows) - most
        return Group(table, Text(f"... and {left:,} more", "dim")) if left else table


VAES: Final[tuple[Column, ...]] = (
    Column("VAE", ratio=1),
    Column("waiting", is_figure=True),
    *(Column(priority, is_figure=True) for priority in PRIORITIES),
    Column("backlog", is_figure=True),
    Column("workers", is_figure=True),
    Column("hot", is_figure=True),
    Column("finished", is_figure=True, is_extra=True),
    Column("failed", is_figure=True, is_extra=True),
    Column(""),
)

WORKERS: Final[tuple[Column, ...]] = (
    Column("worker", ratio=3),
    Column("host", ratio=2, is_extra=True),
    Column("device", ratio=2),
    Column("GPU", ratio=2, is_extra=True),
    Column("VAEs (*hot)", ratio=3),
    Column("decodes", ratio=3),
    Column("busy", is_figure=True),
    Column("images/s", is_figure=True),
    Column("done", is_figure=True),
    Column("failed", is_figure=True, is_extra=True),
    Column("up", is_figure=True, is_extra=True),
)

FAILURES: Final[tuple[Column, ...]] = (
    Column("failed at"),
    Column("job", ratio=2),
    Column("VAE", ratio=1),
    Column("reason", ratio=5),
)


def vaes_section(overview: Overview) -> Section:
    """The busiest first."""
    return Section(VAES, [vae_row(vae) for vae in busiest_first(overview.vaes)], "no queue yet")


def vae_row(vae: VaeOverview) -> list[Text]:
    """One VAE; a backlog by a guess is marked by a tilde."""
    guess = "" if vae.pace_known or not vae.queued else "~"
    state = "paused" if vae.paused else "no worker" if not vae.workers and vae.queued else ""
    return [
        plain(vae.id),
        Text(count(vae.queued)),
        *(Text(count(vae.by_priority.get(priority, 0))) for priority in PRIORITIES),
        Text(guess + duration(vae.backlog_seconds)),
        Text(count(vae.workers)),
        Text(count(vae.hot)),
        Text(count(vae.finished)),
        Text(count(vae.failed), "red" if vae.failed else ""),
        Text(state, "yellow" if vae.paused else "red"),
    ]


def workers_section(overview: Overview) -> Section:
    """Workers by name."""
    return Section(WORKERS, [worker_row(one) for one in overview.workers], "no worker")


def worker_row(worker: WorkerOverview) -> list[Text]:
    """One worker."""
    hot = set(worker.hot)
    named = sorted(worker.vaes, key=lambda vae: (vae not in hot, vae))
    return [
        plain(worker.name or "-"),
        plain(worker.host or ""),
        plain(worker.device or ""),
        plain(worker.gpu),
        plain(", ".join(f"{vae}*" if vae in hot else vae for vae in named)),
        plain(work_of(worker)),
        Text(share(worker.busy_share), busy_style(worker.busy_share)),
        Text(rate(worker.images_per_second)),
        Text(count(worker.finished)),
        Text(count(worker.failed), "red" if worker.failed else ""),
        Text(duration(worker.up_seconds)),
    ]


def work_of(worker: WorkerOverview) -> str:
    """What its device decodes, and how many requests are out to endpoints."""
    found = []
    if worker.batch is not None:
        found.append(f"{worker.batch.jobs} x {worker.batch.vae} {duration(worker.batch.seconds)}")
    if worker.endpoints:
        out, most = (sum(getattr(one, name) for one in worker.endpoints) for name in ("in_flight", "concurrency"))
        found.append(f"{out}/{most} out")
    return ", ".join(found)


def busy_style(part: float | None) -> str:
    """Green for a device with work."""
    return "green" if part is not None and part >= 0.5 else ""


def failures_section(overview: Overview) -> Section:
    """The newest first."""
    return Section(FAILURES, [failure_row(one) for one in overview.failures], "no failure of late")


def failure_row(failure: RecentFailure) -> list[Text]:
    """One failed job."""
    return [Text(moment(failure.ended_at)), plain(failure.id), plain(failure.vae), plain(failure.reason, "red")]


def moment(seconds: float | None) -> str:
    """Unix seconds as local time, with the date where that is another day's."""
    if seconds is None:
        return ""
    when, today = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M:%S" if when[:3] == today[:3] else "%m-%d %H:%M", when)
