"""What becomes of each job of a batch when its decode goes wrong.

A batch that the device has no room for is halved, down to a single job. That one is decoded in strips or, a video,
frame by frame, which give the same picture in a part of the memory; then in tiles where somebody allows them, of frames
before those of pixels; else it is handed to another worker. An encode and a reproducible job have whole decodes alone.
A batch that raises is split until the culprit is alone; its neighbours are decoded. What is the device's fault is
nobody's, and is raised.
"""

import logging
from collections.abc import Callable, Sequence

from vaefarm_shared.errors import BatchMismatch, DecodeError, DeviceFault, OutOfMemory

from .decoder import Batch, BatchItem, Decoded, Decoder, Encoded
from .memory_mode import MemoryMode

logger = logging.getLogger(__name__)

#: Told which items the device is about to decode.
OnDevice = Callable[[Sequence[BatchItem]], None]

Outcome = Decoded | Encoded | Exception


def decode(decoder: Decoder, batch: Batch, on_device: OnDevice, *, tiling: bool = False) -> list[Outcome]:
    """One outcome for each item, in their order: its pictures, or latents, or the error that is its own.

    Args:
        on_device: Told before each call of the decoder what that call decodes.
        tiling: Whether the operator lets pictures be tiled for which there is no room; a job may allow it by itself.

    Raises:
        DeviceFault: the device is at fault; no item is.
    """
    try:
        return list(_made(decoder, batch, on_device, tiling))
    except DeviceFault:
        raise
    except OutOfMemory as error:
        if len(batch.items) == 1:
            return [error]
        logger.warning("no room for %d jobs of %s at once: halved", len(batch.items), batch.vae)
    except Exception as error:
        if len(batch.items) == 1:
            _ask_the_device(decoder, error)
            return [error]
        logger.warning("a batch of %d failed and is split: %s", len(batch.items), error)
    middle = len(batch.items) // 2
    halves = (Batch(batch.items[:middle]), Batch(batch.items[middle:]))
    return [outcome for half in halves for outcome in decode(decoder, half, on_device, tiling=tiling)]


def _made(decoder: Decoder, batch: Batch, on_device: OnDevice, tiling: bool) -> Sequence[Outcome]:
    """What the decoder makes of a batch, in the first mode for which it has room.

    Raises:
        OutOfMemory: there is none.
        BatchMismatch: the decoder gave another number of results than it got jobs.
    """
    spec = batch.items[0].spec
    error = OutOfMemory(
        f"{decoder.device} has no room to {batch.task} {spec.count} x {spec.vae} {spec.width}x{spec.height}"
    )
    for mode in _modes(decoder, batch, tiling):
        if mode is not MemoryMode.WHOLE:
            logger.warning("job %s does not fit whole: %s", spec.id, mode, extra={"job_id": spec.id})
        on_device(batch.items)
        try:
            made: Sequence[Outcome] = (
                decoder.encode(batch) if batch.task == "encode" else decoder.decode(batch, mode=mode)
            )
        except OutOfMemory as caught:
            error = caught
            continue
        if len(made) != len(batch.items):
            raise BatchMismatch(f"the decoder gave {len(made)} results for {len(batch.items)} jobs")
        return made
    raise error


def _modes(decoder: Decoder, batch: Batch, tiling: bool) -> Sequence[MemoryMode]:
    if len(batch.items) > 1:
        return (MemoryMode.WHOLE,)
    spec = batch.items[0].spec
    return [mode for mode in decoder.modes(spec) if not mode.needs_leave or tiling or spec.tiling]


def _ask_the_device(decoder: Decoder, error: Exception) -> None:
    """After a failure that explains nothing, see whether the device still decodes what it should.

    Raises:
        DeviceFault: it does not.
    """
    if not isinstance(error, DecodeError):
        decoder.self_test()
