"""The results as a table for people."""

from itertools import groupby
from typing import Final

from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .measurement import Measurement
from .results import Results

HEADERS: Final[tuple[str, ...]] = (
    *("pixels", "batch", "decode", "seconds", "pictures\na second", "times\nplain"),
    *("peak\nmemory", "share", "limit,\nms", "reached"),
)


def show(results: Results, console: Console) -> None:
    """Print the machine, a table for each VAE, and what the columns mean."""
    machine = results.machine
    console.print(
        f"{machine['name']} ({machine['device']}), {machine['threads']} threads, torch {machine['torch']},"
        f" diffusers {machine['diffusers']}",
        highlight=False,
    )
    for title, rows in groupby(results.rows, lambda row: f"{row.vae}: {row.dtype}, {row.weights} weights"):
        console.print(_table(results, title, list(rows)))
    for line in notes(results):
        console.print(line, style="dim", highlight=False)


def _table(results: Results, title: str, rows: list[Measurement]) -> Table:
    table = Table(box=HORIZONTALS, title=title, title_justify="left", padding=0)
    for header in HEADERS:
        table.add_column(header, justify="left" if header == "decode" else "right", no_wrap=True)
    before: Measurement | None = None
    for row in rows:
        if before is not None and (row.size, row.batch) != (before.size, before.batch):
            table.add_section()
        table.add_row(*_cells(results, row))
        before = row
    return table


def _cells(results: Results, row: Measurement) -> tuple[str | Text, ...]:
    case = (str(row.size), str(row.batch), row.mode)
    if row.peak_bytes is None:
        return (*case, Text(row.outcome, "yellow"))
    figures = results.figures(row)
    return (
        *case,
        f"{figures['seconds']:.3f}",
        f"{figures['pictures_per_second']:.2f}",
        _or_nothing(figures["times_plain"], ".2f"),
        memory(row.peak_bytes),
        _or_nothing(figures["memory_share"], ".1%"),
        f"{1e3 * figures['limit_seconds']:.1f}",
        f"{figures['limit_share']:.0%}",
    )


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def memory(size_bytes: int) -> str:
    """Bytes, for people."""
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"


def notes(results: Results) -> list[str]:
    """What the columns mean, and what was left out."""
    peaks = ", ".join(f"{peak / 1e12:.3g} TFLOP/s in {dtype}" for dtype, peak in results.peaks.items())
    total = results.machine["memory_bytes"]
    of = "" if total is None else f", of {total / 2**30:.1f} GiB"
    lines = [
        "seconds: of a call, the median, the first not counted.",
        f"peak memory: weights, latents and decode ({results.machine['memory_by']}){of}.",
        f"limit: the plain decode's operations at the rate of the best large matrix product, {peaks};"
        " and how much of that rate was reached.",
    ]
    reasons = dict.fromkeys(
        f"{row.vae}, {row.size} px, batch {row.batch}, {row.mode}: {row.outcome}: {row.reason}."
        for row in results.rows
        if row.outcome != "measured"
    )
    return [*lines, *reasons] if results.rows else []
