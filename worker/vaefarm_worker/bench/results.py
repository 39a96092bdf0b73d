"""What was measured, and what follows from it."""

from dataclasses import dataclass, field
from typing import Any

from .measurement import Measurement


@dataclass(slots=True)
class Results:
    """What is known so far."""

    machine: dict[str, Any]
    rows: list[Measurement] = field(default_factory=list)
    #: Operations per second of the best matrix product, by dtype.
    peaks: dict[str, float] = field(default_factory=dict)
    #: Whether every case was measured.
    is_complete: bool = False

    def plain_of(self, row: Measurement) -> Measurement | None:
        """The plain decode of the same pictures, where it was measured."""
        case = (row.vae, row.dtype, row.size, row.batch, "plain", "measured")
        return next(
            (one for one in self.rows if (one.vae, one.dtype, one.size, one.batch, one.mode, one.outcome) == case), None
        )

    def limit_seconds(self, row: Measurement) -> float | None:
        """Seconds in which the chip could make the same pictures at best."""
        peak = self.peaks.get(row.dtype)
        return None if peak is None or row.flops is None else row.flops / peak

    def memory_share(self, row: Measurement) -> float | None:
        """Part of the device's memory that a decode takes, weights included."""
        total = self.machine["memory_bytes"]
        return None if row.peak_bytes is None or total is None else row.peak_bytes / total

    def figures(self, row: Measurement) -> dict[str, Any]:
        """A row for programs: what was measured, and what follows from it; null where there is none."""
        seconds, plain, limit = row.seconds, self.plain_of(row), self.limit_seconds(row)
        return {
            **{name: getattr(row, name) for name in ("vae", "dtype", "weights", "size", "batch", "mode", "outcome")},
            "reason": row.reason,
            "seconds": seconds,
            "runs": row.runs,
            "pictures_per_second": None if seconds is None else row.batch / seconds,
            "times_plain": _ratio(seconds, None if plain is None else plain.seconds),
            "peak_bytes": row.peak_bytes,
            "memory_share": self.memory_share(row),
            "peak_of_plain": _ratio(row.peak_bytes, None if plain is None else plain.peak_bytes),
            "flops": row.flops,
            "limit_seconds": limit,
            "limit_share": _ratio(limit, seconds),
        }

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "machine": self.machine,
            "peak_flops": self.peaks,
            "complete": self.is_complete,
            "rows": [self.figures(row) for row in self.rows],
        }


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
