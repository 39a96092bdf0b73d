"""The results as a picture: for each VAE, size and batch a bar for every mode, time beside memory."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from .measurement import Measurement
from .modes import MODES
from .results import Results
from .table import memory

#: Pixels of the chart's width; its height follows from its rows. It is drawn twice as large, for smooth edges.
WIDTH: Final[int] = 1600
ZOOM: Final[int] = 2

MARGIN, HEAD, FOOT = 48, 168, 88
GROUP, BAR, GAP = 52, 26, 8

#: Where the two columns of bars begin, and how long the longest bar is; figures stand behind the bars.
COLUMNS: Final[tuple[int, int]] = (330, 990)
LENGTH: Final[int] = 360

INK, FAINT, RULE, PAPER = "#1d2530", "#667080", "#e3e7ec", "#ffffff"
LIMIT: Final[str] = "#c0392b"


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one VAE, size and batch."""

    rows: tuple[Measurement, ...]

    @property
    def title(self) -> str:
        """What they decode."""
        first = self.rows[0]
        return f"{first.vae}  {first.size} x {first.size}" + (f"  batch {first.batch}" if first.batch > 1 else "")

    @property
    def height(self) -> int:
        """Pixels that it takes."""
        return GROUP + len(self.rows) * (BAR + GAP)


def groups_of(results: Results) -> list[Group]:
    """The rows by what they decode, in their order."""
    return [Group(tuple(rows)) for _, rows in groupby(results.rows, lambda row: (row.vae, row.size, row.batch))]


def chart_size(results: Results) -> tuple[int, int]:
    """Width and height of the chart, in pixels."""
    return WIDTH, HEAD + sum(group.height for group in groups_of(results)) + FOOT


def save_chart(results: Results, path: Path) -> None:
    """Draw the chart and write it as a PNG. Raises OSError."""
    width, height = chart_size(results)
    pen = Pen(width, height)
    _draw_head(pen, results)
    top = HEAD
    for group in groups_of(results):
        _draw_group(pen, results, group, top)
        top += group.height
    _draw_foot(pen, results, top)
    pen.picture.resize((width, height), Image.Resampling.LANCZOS).save(path, format="PNG")


class Pen:
    """Draws in the chart's own pixels on a picture that is larger."""

    def __init__(self, width: int, height: int) -> None:
        self.picture = Image.new("RGB", (width * ZOOM, height * ZOOM), PAPER)
        self._draw = ImageDraw.Draw(self.picture)
        self._fonts = {size: ImageFont.load_default(size * ZOOM) for size in (18, 20, 24, 34)}

    def text(self, x: float, y: float, text: str, size: int = 20, colour: str = INK, anchor: str = "lm") -> float:
        """Write; return where it ends."""
        font = self._fonts[size]
        self._draw.text((x * ZOOM, y * ZOOM), text, colour, font, anchor)
        return x + font.getlength(text) / ZOOM

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A rectangle whose right corners are rounded a little."""
        box = (x * ZOOM, y * ZOOM, (x + max(2.0, width)) * ZOOM, (y + height) * ZOOM)
        self._draw.rounded_rectangle(box, 4 * ZOOM, colour, corners=(False, True, True, False))

    def labelled_bar(self, x: float, y: float, part: float, colour: str, text: str) -> None:
        """A bar of that part of the longest, and a text behind it."""
        self.bar(x, y, LENGTH * part, BAR, colour)
        self.text(x + LENGTH * part + 12, y + BAR / 2, text)

    def line(self, x: float, y: float, to_x: float, to_y: float, colour: str, width: int = 1) -> None:
        """A straight line."""
        self._draw.line((x * ZOOM, y * ZOOM, to_x * ZOOM, to_y * ZOOM), colour, width * ZOOM)


def _draw_head(pen: Pen, results: Results) -> None:
    machine = results.machine
    kinds = [*dict.fromkeys(row.dtype for row in results.rows)]
    if any(row.weights == "random" for row in results.rows):
        kinds.append("random weights")
    pen.text(MARGIN, 48, f"Decoding latents on {machine['name']}", 34)
    x = float(MARGIN)
    for mode in dict.fromkeys(row.mode for row in results.rows):
        pen.bar(x, 86, 22, 16, MODES[mode].colour)
        x = pen.text(x + 32, 94, MODES[mode].title, 20, FAINT) + 34
    pen.line(x + 4, 84, x + 4, 106, LIMIT, 3)
    pen.text(x + 18, 94, "limit of the chip", 20, FAINT)
    pen.text(WIDTH - MARGIN, 48, ", ".join(kinds), 24, FAINT, "rm")
    total = machine["memory_bytes"]
    of = "" if total is None else f", and its share of {total / 2**30:.0f} GiB"
    pen.text(COLUMNS[0], HEAD - 26, "time of a call, the median", 20, FAINT)
    pen.text(COLUMNS[1], HEAD - 26, f"peak memory, weights included{of}", 20, FAINT)


def _draw_group(pen: Pen, results: Results, group: Group, top: int) -> None:
    pen.line(MARGIN, top, WIDTH - MARGIN, top, RULE, 1)
    pen.text(MARGIN, top + 26, group.title, 24)
    longest = max((row.seconds or 0.0 for row in group.rows), default=0.0)
    largest = max((row.peak_bytes or 0 for row in group.rows), default=0)
    y = float(top + GROUP)
    for row in group.rows:
        pen.text(COLUMNS[0] - 16, y + BAR / 2, row.mode, 20, INK, "rm")
        if row.seconds is None or row.peak_bytes is None:
            for place in COLUMNS:
                pen.text(place, y + BAR / 2, row.outcome, 20, LIMIT if row.outcome == "no room" else FAINT)
        else:
            time = row.seconds / longest
            pen.labelled_bar(COLUMNS[0], y, time, MODES[row.mode].colour, _time(results, row))
            pen.labelled_bar(
                COLUMNS[1], y, row.peak_bytes / largest, MODES[row.mode].colour, _memory(results, row.peak_bytes)
            )
            limit = results.limit_seconds(row)
            if limit is not None and limit <= longest:
                x = COLUMNS[0] + LENGTH * limit / longest
                pen.line(x, y - GAP / 2, x, y + BAR + GAP / 2, LIMIT, 3)
        y += BAR + GAP


def _draw_foot(pen: Pen, results: Results, top: int) -> None:
    machine = results.machine
    pen.line(MARGIN, top, WIDTH - MARGIN, top, RULE, 1)
    pen.text(
        MARGIN,
        top + 30,
        "Bars are to scale within each picture size. Limit: the decode's operations at the rate of the device's best"
        " matrix product.",
        18,
        FAINT,
    )
    versions = ", ".join(f"{name} {machine[name]}" for name in ("vaefarm", "torch", "diffusers"))
    pen.text(MARGIN, top + 56, f"vaefarm bench: {versions}, {machine['date']}", 18, FAINT)


def _time(results: Results, row: Measurement) -> str:
    """Its seconds or milliseconds, and how that compares with plain, as the blog post's tables do."""
    assert row.seconds is not None
    said = f"{row.seconds:.2f} s" if row.seconds >= 1 else f"{1e3 * row.seconds:.1f} ms"
    times = results.figures(row)["times_plain"]
    return said if times is None or row.mode == "plain" else f"{said}  ({times - 1:+.0%})"


def _memory(results: Results, size_bytes: int) -> str:
    """Bytes, and their share of the device's memory."""
    total = results.machine["memory_bytes"]
    return memory(size_bytes) if total is None else f"{memory(size_bytes)}  ({size_bytes / total:.1%})"
