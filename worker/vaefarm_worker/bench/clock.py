"""Seconds of work on a device."""

import time
from collections.abc import Callable

import torch


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds from nothing on the device to nothing on it again."""
    _finish(device)
    began = time.perf_counter()
    made = work()
    _finish(device)
    seconds = time.perf_counter() - began
    # What it made is given back after the clock stands.
    del made
    return seconds


def _finish(device: torch.device) -> None:
    if device.type in {"cuda", "xpu"}:
        # Of this device: the current one may be another.
        getattr(torch, device.type).synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
