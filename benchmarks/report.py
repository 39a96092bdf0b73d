"""Figures as tables that a README can hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its table, a line below it, and the raw numbers behind both."""

    title: str
    header: Row
    rows: tuple[Row, ...]
    raw: dict[str, Any]
    note: str = ""

    def markdown(self) -> str:
        """The figure as a Markdown table between its title and its note."""
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join(part for part in (f"{self.title}:", table, self.note) if part)


def percentiles(rounds: Sequence[Sequence[float]]) -> Row:
    """p50, p95 and p99 of each round's seconds, each the median over the rounds, in milliseconds."""
    per_round = np.percentile(np.asarray(rounds) * 1e3, (50, 95, 99), axis=1)
    return tuple(f"{value:.2f}" for value in np.median(per_round, axis=1))


def middle(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and the lowest and highest it stands between."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def cpu_milliseconds(rounds: Sequence[dict[str, float]], count: int) -> dict[str, float]:
    """CPU milliseconds for each of `count` jobs, by process: the median over the rounds."""
    return {name: median(1e3 * one[name] / count for one in rounds) for name in rounds[0]}
