"""What it takes to bring pictures from the device to this host, and to see whether they are finite."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Final

import torch

from vaefarm_worker.bench.clock import seconds_of
from vaefarm_worker.host_copy import to_host

from .farm_under_test import Options
from .report import Figure, Row, middle

#: Pictures of one copy, their side unless the command line says others, and copies of each round.
COUNTS: Final = (1, 8)
SIDES: Final = (512, 1024, 2048)
COPIES: Final = 20


def host_copy(options: Options) -> Figure:
    """As a decode does it, and as torch does it by itself, in turns."""
    device = torch.device(options.device)
    rows: list[Row] = []
    raw: dict[str, dict[str, list[float]]] = {}
    for side in options.pixels or SIDES:
        for count in COUNTS:
            pictures = torch.zeros((count, side, side, 3), dtype=torch.uint8, device=device)
            flags = torch.ones(count, dtype=torch.bool, device=device)
            ways: dict[str, Callable[[], object]] = {
                "torch's own": partial(_by_torch, flags, pictures),
                "to_host": partial(to_host, flags, pictures),
            }
            taken = _taken(ways, device, options.rounds)
            raw[f"{count} x {side}"] = taken
            own, ours = taken.values()
            milliseconds = (middle([1e3 * one for one in seconds], ".3f") for seconds in (own, ours))
            rate = pictures.numel() / median(ours) / 1e9
            rows.append((f"{count} x {side} x {side}", *milliseconds, f"{rate:.1f}"))
    return Figure(
        title=f"host-copy, finished pictures and their flags to the host, {options.device}",
        header=("pictures", "torch's own, ms", "to_host, ms", "to_host, GB/s"),
        rows=tuple(rows),
        raw=raw,
        note=f"Medians of {options.rounds} rounds of {COPIES} copies, in turns, the first of each not counted.",
    )


def _by_torch(flags: torch.Tensor, pictures: torch.Tensor) -> tuple[list[bool], torch.Tensor]:
    return flags.tolist(), pictures.cpu()


def _taken(ways: dict[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """By way: the median copy's seconds of each round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for copy in ways.values():
        # Memory is pinned once, and kept.
        seconds_of(copy, device)
    for _ in range(rounds):
        for name, copy in ways.items():
            found[name].append(median(seconds_of(copy, device) for _ in range(COPIES)))
    return found
