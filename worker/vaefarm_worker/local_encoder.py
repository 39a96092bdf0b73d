"""Encoding with a loaded VAE: images to the latents that an img2img pipeline holds."""

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from vaefarm_shared.errors import BatchMismatch
from vaefarm_shared.images import Images
from vaefarm_shared.latents import from_tensor

from .decoder import BatchItem, Encoded
from .families.switches import switched_on
from .host_copy import to_device, to_host
from .vaes import LoadedVae
from .widening import WIDEST, dtype_name, run_widest

logger = logging.getLogger(__name__)

#: What the encoder takes for each value of a pixel: the steps of VaeImageProcessor.pil_to_numpy and .normalize, done
#: here once, on the CPU. A GPU divides by multiplying, which differs in the last bit.
UNIT: Final[torch.Tensor] = 2.0 * torch.from_numpy(np.arange(256, dtype=np.float32) / 255.0) - 1.0


def encode_items(
    loaded: LoadedVae, items: Sequence[BatchItem], device: torch.device, switches: tuple[str, ...]
) -> list[Encoded]:
    """Encode in one call; a job whose latents are not finite once more, alone, in the widest dtype.

    Raises:
        NonFiniteImage: NaN or Inf, also in float32.
        BatchMismatch: the VAE gave another number of latents than it got images, or of another shape.
    """
    made = _run(loaded, items, device, loaded.dtype, switches)
    flags, latents = to_host(torch.isfinite(made).flatten(1).all(1), made)
    finite = flags.tolist()
    encoded, start = [], 0
    for item in items:
        part = slice(start, start + item.spec.count)
        start = part.stop
        if all(finite[part]):
            encoded.append(Encoded(from_tensor(latents[part]), dtype_name(loaded.dtype), switches=switches))
        else:
            encoded.append(_widened(loaded, item, device, switches))
    return encoded


def _widened(loaded: LoadedVae, item: BatchItem, device: torch.device, switches: tuple[str, ...]) -> Encoded:
    """Encode a job alone in the widest dtype."""
    latents = run_widest(loaded, item.spec, lambda dtype: _run(loaded, [item], device, dtype, switches))
    return Encoded(from_tensor(latents), dtype_name(WIDEST), widened_from=dtype_name(loaded.dtype), switches=switches)


def _run(
    loaded: LoadedVae,
    items: Sequence[BatchItem],
    device: torch.device,
    dtype: torch.dtype,
    switches: tuple[str, ...],
) -> torch.Tensor:
    """(n, c, height / scale, width / scale): the pipeline's own steps, in the VAE's dtype."""
    held = [to_input(item.images, device, dtype) for item in items]
    images = held[0] if len(held) == 1 else torch.cat(held)
    with torch.inference_mode(), switched_on(loaded.module, switches):
        latents = loaded.family.encode(loaded.module, images, [item.spec for item in items])
    wanted = (sum(item.spec.count for item in items), *items[0].spec.shape[1:])
    if latents.shape != wanted:
        raise BatchMismatch(f"VAE {items[0].spec.vae!r} gave latents of shape {tuple(latents.shape)}, not {wanted}")
    return latents


def to_input(images: Images, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(n, 3, height, width) in [-1, 1] on the device, as VaeImageProcessor.preprocess gives it to a pipeline."""
    held = images.torch()
    # Pixels are a quarter of the bytes to move.
    tensor = to_device([held], device, held.dtype)
    if images.dtype != "uint8":
        return tensor.to(dtype)
    # Channels stay last in memory, as the image processor leaves them: a convolution adds in another order otherwise.
    return to_device([UNIT], device, dtype)[tensor.int()].permute(0, 3, 1, 2)
