"""One VAE, size, batch and mode: how long a decode takes, and how much memory."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

import torch

from vaefarm_shared.errors import DeviceFault, OutOfMemory

from .. import device_memory
from ..device_errors import fault_of
from ..widening import dtype_name
from . import clock, live_bytes
from .modes import Mode
from .subject import Subject

#: Seconds after which no further run of a case begins.
MOST_SECONDS: Final[float] = 10.0

#: Part of the free memory that a decode on a CPU may take: Linux ends a process that takes all.
CPU_SHARE: Final[float] = 0.9


@dataclass(frozen=True, slots=True)
class Measurement:
    """A row of the table. What does not fit, is not for that VAE or fails has no figures."""

    vae: str
    dtype: str
    weights: str
    size: int
    batch: int
    mode: str
    outcome: Literal["measured", "no room", "not offered", "failed"]
    #: Why it was not measured.
    reason: str = ""
    #: Seconds of each decode of the whole batch, but the first.
    runs: tuple[float, ...] = ()
    #: Most bytes at a time: weights, latents and whatever the decode makes.
    peak_bytes: int | None = None
    #: Floating-point operations of the plain decode of the batch.
    flops: int | None = None

    @property
    def seconds(self) -> float | None:
        """The median run's."""
        return median(self.runs) if self.runs else None


def measure(subject: Subject, size: int, batch: int, mode: Mode, runs: int, room_bytes: int | None) -> Measurement:
    """Decode once to warm up, then `runs` times; fewer where that takes long.

    Args:
        room_bytes: Bytes that weights and decode may take together; None where that cannot be told.

    Raises:
        DeviceFault: the device is at fault.
    """
    case = (subject.id, dtype_name(subject.dtype), subject.weights, size, batch, mode.name)
    if (refusal := mode.refusal(subject)) is not None:
        return Measurement(*case, "not offered", refusal)
    least = subject.weight_bytes + int(subject.least_bytes(size, batch) * mode.share(subject, size))
    if room_bytes is not None and least > room_bytes:
        return Measurement(*case, "no room", f"it takes {least / 2**20:.0f} MiB at least")
    outcome: Literal["no room", "failed"] = "no room"
    try:
        seconds, peak = _run(subject, size, batch, mode, runs)
    except OutOfMemory as error:
        reason = str(error)
    except (RuntimeError, MemoryError) as error:
        fault = fault_of(error, str(subject.device), f"decode {batch} x {subject.id} {size}x{size}")
        if isinstance(fault, DeviceFault):
            raise fault from error
        if fault is None:
            outcome = "failed"
        reason = str(fault or error).partition("\n")[0]
    else:
        if room_bytes is None or peak <= room_bytes:
            return Measurement(*case, "measured", runs=tuple(seconds), peak_bytes=peak)
        reason = f"it takes {peak / 2**20:.0f} MiB"
    # Out here: the traceback of what was caught held the decode's tensors.
    device_memory.empty_cache(subject.device)
    return Measurement(*case, outcome, reason)


def _run(subject: Subject, size: int, batch: int, mode: Mode, runs: int) -> tuple[list[float], int]:
    latents = subject.latents(size, batch)
    with torch.inference_mode():
        peak = _peak_bytes(subject, lambda: mode.decode(subject.module, latents))
        seconds: list[float] = []
        while len(seconds) < runs and sum(seconds) < MOST_SECONDS:
            seconds.append(clock.seconds_of(lambda: mode.decode(subject.module, latents), subject.device))
    held = subject.weight_bytes + latents.numel() * latents.element_size()
    return seconds, held + peak


def _peak_bytes(subject: Subject, decode: Callable[[], object]) -> int:
    """Bytes that the first decode takes at most, beside weights and latents: by CUDA's allocator, else counted."""
    if subject.device.type != "cuda":
        return live_bytes.peak_bytes(decode)
    taken = device_memory.Peak(subject.device)
    decode()
    return taken.taken_bytes() or 0


def room_of(device: torch.device, limit_bytes: int | None) -> int | None:
    """Bytes that weights and decode may take: the limit, and on a CPU no more than is free."""
    free = device_memory.free_bytes(device) if device.type == "cpu" else None
    known = [limit_bytes, None if free is None else int(CPU_SHARE * free)]
    return min((room for room in known if room is not None), default=None)
