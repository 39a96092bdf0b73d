"""The farm as a picture: totals, what to know, VAEs, workers, newest failures, cut to the lines that there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaefarm_shared.overview import Overview, Totals

from ..plain_text import plain
from ..readable import bytes_of, count, duration, of_limit, rate, share, sparkline
from .tables import Section, failures_section, moment, vaes_section, workers_section

#: Warnings that a small terminal shows.
MOST_WARNINGS: Final[int] = 4

#: Columns of a line of bars, at most.
SPARK_WIDTH: Final[int] = 120


@dataclass(frozen=True, slots=True)
class Frame:
    """What of a picture is not the farm's."""

    #: Where the farm is, without secrets.
    place: str
    width: int
    #: Lines that there are; None for as many as it takes.
    height: int | None = None
    #: Images a second of earlier looks, and the seconds from one to the next.
    history: Sequence[float] = ()
    interval: float = 1.0
    #: Why this is no picture of now; else what keys do.
    notice: str = ""
    hint: str = ""


def picture(overview: Overview, frame: Frame) -> RenderableType:
    """How the farm stands."""
    above = [title(overview, frame), *totals_lines(overview.totals)]
    if frame.history:
        above.append(spark_line(frame))
    warnings = [plain(one.message, "yellow") for one in overview.warnings]
    below = [plain(frame.notice, "bold red")] if frame.notice else [Text(frame.hint, "dim")] if frame.hint else []
    sections = [vaes_section(overview), workers_section(overview), failures_section(overview)]
    if frame.height is None:
        drawn = [part for one in sections for part in (Text(), one.drawn(frame.width))]
        return Group(*above, *warnings, *drawn, *below)
    if len(warnings) > MOST_WARNINGS:
        left = len(warnings) - MOST_WARNINGS + 1
        warnings[MOST_WARNINGS - 1 :] = [Text(f"... and {left} more warnings", "yellow")]
    lines = [*above, *warnings]
    room = frame.height - len(lines) - len(below)
    for one in (*lines, *below):
        if isinstance(one, Text):
            one.no_wrap, one.overflow = True, "ellipsis"
    return Group(*lines, *fitted(sections, frame.width, room), *below)


def fitted(sections: Sequence[Section], width: int, room: int) -> list[RenderableType]:
    """Sections in exactly so many lines: blank ones before each as far as there is room, and at the end."""
    heights = share_lines(room, [one.height for one in sections])
    spare = room - sum(heights)
    drawn: list[RenderableType] = []
    for section, height in zip(sections, heights, strict=True):
        if height < min(2, section.height):
            # Not even one row under its heading.
            drawn += [Text()] * height
            continue
        if spare > 0:
            drawn.append(Text())
            spare -= 1
        drawn.append(section.drawn(width, height))
    return [*drawn, *[Text()] * max(0, spare)]


def share_lines(room: int, wanted: Sequence[int]) -> list[int]:
    """How many of `room` lines each gets: as many as it wants, or as many as the others."""
    given = [0] * len(wanted)
    for _ in range(max(0, room)):
        hungry = [place for place, most in enumerate(wanted) if given[place] < most]
        if not hungry:
            break
        given[min(hungry, key=lambda place: given[place])] += 1
    return given


def title(overview: Overview, frame: Frame) -> RenderableType:
    """Which farm, and when."""
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    line.add_column(justify="right", no_wrap=True)
    line.add_row(Text.assemble(("vaefarm ", "bold"), plain(frame.place, "cyan")), Text(moment(overview.taken_at)))
    return line


def totals_lines(totals: Totals) -> list[Text]:
    """The farm as a whole; what the asker may not know is left out."""
    work = [
        ("waiting", count(totals.queued)),
        ("backlog", duration(totals.backlog_seconds)),
        ("in hand", count(totals.in_hand)),
        ("workers", count(totals.workers)),
        ("images/s", rate(totals.images_per_second)),
        ("busy", share(totals.busy_share)),
    ]
    room = [
        ("budget", of_limit(bytes_of(totals.budget_bytes), bytes_of(totals.budget_bytes_limit))),
        ("jobs", of_limit(count(totals.budget_jobs), count(totals.budget_jobs_limit))),
        ("Redis", of_limit(bytes_of(totals.redis_bytes), bytes_of(totals.redis_bytes_limit or None))),
    ]
    return [line for line in (labelled(work), labelled(room)) if line]


def labelled(figures: Sequence[tuple[str, str]]) -> Text:
    """Figures with what they are, those that are known."""
    known = [Text.assemble((f"{name} ", "dim"), (figure, "bold")) for name, figure in figures if figure]
    return Text("  ").join(known)


def spark_line(frame: Frame) -> Text:
    """Images a second, of as many looks as were kept."""
    label = f"images/s, {duration(len(frame.history) * frame.interval)}, at most {rate(max(frame.history))} "
    width = min(frame.width - len(label), SPARK_WIDTH)
    return Text.assemble((label, "dim"), (sparkline(frame.history, width), "green"))
