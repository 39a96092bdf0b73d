"""What the chip could do at best: the decode's operations at the rate of its fastest matrix product."""

import time
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from . import clock
from .subject import Subject

#: Seconds for which matrices are multiplied.
SECONDS: Final[float] = 0.5

#: Side of the square matrices, by device: large enough to keep all of it busy.
SIDE: Final[dict[str, int]] = {"cpu": 1024, "cuda": 8192}
OTHER_SIDE: Final[int] = 4096


def decode_flops(subject: Subject, size: int) -> int:
    """Floating-point operations of one picture's plain decode, two for a multiplication with its addition.

    Convolutions, matrix products and attention, counted by torch on a copy that holds no numbers.
    """
    with torch.device("meta"):
        empty: Any = type(subject.module).from_config(subject.module.config)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        empty.decode(subject.latents(size, 1, device="meta"))
    return int(counter.get_total_flops())


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the best of many products of two large matrices."""
    side = SIDE.get(device.type, OTHER_SIDE)
    precision = torch.get_float32_matmul_precision()
    # As cuDNN's convolutions in float32 do: tensor cores, where there are any.
    torch.set_float32_matmul_precision("high")
    try:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        best, until = float("inf"), time.perf_counter() + SECONDS
        torch.mm(left, right)
        while time.perf_counter() < until or best == float("inf"):
            best = min(best, clock.seconds_of(lambda: torch.mm(left, right), device))
    finally:
        torch.set_float32_matmul_precision(precision)
    return 2 * side**3 / best
