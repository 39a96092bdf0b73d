"""Copies between a device and this host's memory, on CUDA by way of pinned memory.

CUDA copies pinned memory at the bus' full rate while this host goes on: what a batch gives is waited for once. Torch
keeps pinned memory that nobody holds any more for the next copy, and hands out none that a copy still reads or writes.
"""

import logging
import threading
from collections.abc import Sequence

import torch

from vaefarm_shared.errors import OutOfMemory

from .device_errors import fault_of, first_line

logger = logging.getLogger(__name__)

_has_told = threading.Event()


def to_device(parts: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Tensors of this host, one after the other along their first dimension, on a device; cast before they move."""
    if device.type != "cuda":
        return (parts[0] if len(parts) == 1 else torch.cat(list(parts))).to(device, dtype)
    lengths = [len(part) for part in parts]
    held = pinned((sum(lengths), *parts[0].shape[1:]), dtype)
    for into, part in zip(torch.split(held, lengths), parts, strict=True):
        into.copy_(part)
    return held.to(device, non_blocking=True)


def to_host(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Tensors of one device in this host's memory, contiguous; they keep that memory as long as anyone has them.

    Raises:
        RuntimeError: torch's; on CUDA also for whatever went wrong on the device before (`device_errors.fault_of`).
    """
    device = tensors[0].device
    if device.type != "cuda":
        return tuple(one.contiguous().cpu() for one in tensors)
    held = tuple(pinned(one.shape, one.dtype).copy_(one, non_blocking=True) for one in tensors)
    torch.cuda.current_stream(device).synchronize()
    return held


def pinned(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor in pinned memory, not written yet; in ordinary memory where this host has no more to pin.

    Raises:
        RuntimeError: torch's, for another reason.
    """
    try:
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        # A device has as much room as before: its batch is not to be halved for this.
        if not isinstance(fault_of(error, "this host", "pin memory"), OutOfMemory):
            raise
        if not _has_told.is_set():
            _has_told.set()
            logger.warning("this host has no more memory to pin, pictures are copied slower: %s", first_line(error))
    return torch.empty(tuple(shape), dtype=dtype)
