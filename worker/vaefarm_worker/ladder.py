"""What becomes of each job of a batch when its decode goes wrong.

A batch that the device has no room for is halved, down to a single job; that one is tiled where it may be (an encode
never is), else handed to another worker. A batch that raises is split until the culprit is alone; its neighbours are
decoded. What is the device's fault is nobody's, and is raised.
"""

import logging
from collections.abc import Callable, Sequence

from vaefarm_shared.errors import BatchMismatch, DecodeError, DeviceFault, OutOfMemory

from .decoder import Batch, BatchItem, Decoded, Decoder, Encoded

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
    on_device(batch.items)
    try:
        made: Sequence[Outcome] = decoder.encode(batch) if batch.task == "encode" else decoder.decode(batch)
        if len(made) != len(batch.items):
            raise BatchMismatch(f"the decoder gave {len(made)} results for {len(batch.items)} jobs")
        return list(made)
    except DeviceFault:
        raise
    except OutOfMemory as error:
        if len(batch.items) == 1:
            return [_tiled(decoder, batch, error, tiling)]
        logger.warning("no room for %d jobs of %s at once: halved", len(batch.items), batch.vae)
    except Exception as error:
        if len(batch.items) == 1:
            _ask_the_device(decoder, error)
            return [error]
        logger.warning("a batch of %d failed and is split: %s", len(batch.items), error)
    middle = len(batch.items) // 2
    halves = (Batch(batch.items[:middle]), Batch(batch.items[middle:]))
    return [outcome for half in halves for outcome in decode(decoder, half, on_device, tiling=tiling)]


def _tiled(decoder: Decoder, batch: Batch, error: OutOfMemory, tiling: bool) -> Outcome:
    if batch.task == "encode" or not (tiling or batch.items[0].spec.tiling):
        return error
    job_id = batch.items[0].spec.id
    logger.warning("job %s does not fit whole: decoded in tiles", job_id, extra={"job_id": job_id})
    try:
        return decoder.decode(batch, tiled=True)[0]
    except DeviceFault:
        raise
    except Exception as tiled_error:
        return tiled_error


def _ask_the_device(decoder: Decoder, error: Exception) -> None:
    """After a failure that explains nothing, see whether the device still decodes what it should.

    Raises:
        DeviceFault: it does not.
    """
    if not isinstance(error, DecodeError):
        decoder.self_test()
