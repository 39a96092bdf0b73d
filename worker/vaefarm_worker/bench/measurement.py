"""One VAE, size, batch and mode: how long a decode takes, and how much memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, Literal, TypeVar

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

Outcome = Literal["measured", "no room", "not offered", "failed"]
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Measurement:
    """A row of the table. What does not fit, is not for that VAE or fails has no figures."""

    vae: str
    dtype: str
    weights: str
    size: int
    batch: int
    mode: str
    outcome: Outcome
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


class Trial:
    """One case under way: decoded once to warm up, then run by run, in turns with others."""

    def __init__(self, subject: Subject, size: int, batch: int, mode: Mode, flops: int | None = None) -> None:
        """`flops`: of the plain decode of the batch."""
        self._subject = subject
        self._mode = mode
        self._size, self._batch = size, batch
        self._latents = subject.latents(size, batch)
        self._row = Measurement(
            *(subject.id, dtype_name(subject.dtype), subject.weights, size, batch, mode.name, "measured"), flops=flops
        )

    @property
    def title(self) -> str:
        """What is decoded, and how."""
        return f"{self._row.vae} {self._row.dtype}, {self._size} px, batch {self._batch}, {self._row.mode}"

    @property
    def row(self) -> Measurement | None:
        """What it came to; None while it has no run."""
        return self._row if self._row.runs or self._row.outcome != "measured" else None

    def warm_up(self, room_bytes: int | None) -> None:
        """Decode once, and see what it takes.

        Args:
            room_bytes: Bytes that weights and decode may take together; None where that cannot be told.

        Raises:
            DeviceFault: the device is at fault.
        """
        if (refusal := self._mode.refusal(self._subject)) is not None:
            return self._end("not offered", refusal)
        share = self._mode.share(self._subject, self._size)
        weights = self._subject.weight_bytes + self._mode.extra_bytes(self._subject)
        least = weights + int(self._subject.least_bytes(self._size, self._batch) * share)
        if room_bytes is not None and least > room_bytes:
            return self._end("no room", f"it takes {least / 2**20:.0f} MiB at least")
        peak = self._guarded(lambda: _peak_bytes(self._subject, self._decode))
        if peak is None:
            return None
        peak += weights + self._latents.numel() * self._latents.element_size()
        if room_bytes is not None and peak > room_bytes:
            return self._end("no room", f"it takes {peak / 2**20:.0f} MiB")
        self._row = replace(self._row, peak_bytes=peak)
        return None

    def run(self) -> None:
        """Decode once more against the clock, unless it has failed or took long already. Raises DeviceFault."""
        if self._row.outcome != "measured" or sum(self._row.runs) >= MOST_SECONDS:
            return
        seconds = self._guarded(lambda: clock.seconds_of(self._decode, self._subject.device))
        if seconds is not None:
            self._row = replace(self._row, runs=(*self._row.runs, seconds))

    def _decode(self) -> torch.Tensor:
        with torch.inference_mode():
            return self._mode.decode(self._subject, self._latents)

    def _end(self, outcome: Outcome, reason: str) -> None:
        self._row = replace(self._row, outcome=outcome, reason=reason, runs=(), peak_bytes=None)

    def _guarded(self, work: Callable[[], Made]) -> Made | None:
        """What `work` gives; None where the case ends with an error of its own."""
        outcome: Outcome = "no room"
        try:
            return work()
        except OutOfMemory as error:
            reason = str(error)
        except (RuntimeError, MemoryError) as error:
            what = f"decode {self._batch} x {self._subject.id} {self._size}x{self._size}"
            fault = fault_of(error, str(self._subject.device), what)
            if isinstance(fault, DeviceFault):
                raise fault from error
            outcome = "failed" if fault is None else "no room"
            reason = str(fault or error).partition("\n")[0]
        # Out here: the traceback of what was caught held the decode's tensors.
        self._end(outcome, reason)
        device_memory.empty_cache(self._subject.device)
        return None


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
