"""Decoding with a loaded VAE: latents to pictures, by the pipeline's own steps or by what spares memory."""

from collections.abc import Sequence
from functools import partial

import torch

from vaefarm_shared.errors import BatchMismatch, OutOfMemory

from . import by_frames, strips
from .decoder import BatchItem, Decoded
from .families.family import Network, whole
from .families.switches import switched_on
from .fast import FastDecoder
from .host_copy import to_device, to_host
from .memory_mode import MemoryMode
from .pixels import decoded, finished, stays
from .vaes import LoadedVae
from .widening import WIDEST, dtype_name, run_widest


def decode_items(
    loaded: LoadedVae, items: Sequence[BatchItem], device: torch.device, switches: tuple[str, ...]
) -> list[Decoded]:
    """Decode in one call; a job whose pictures are not finite once more, alone, in the widest dtype.

    Args:
        switches: Names that go into records: 'slicing', and that of a MemoryMode.

    Raises:
        NonFiniteImage: NaN or Inf, also in float32.
        OutOfMemory: the VAE's class has no such switch, or its network a part that the mode does not know.
        BatchMismatch: the VAE gave another number of pictures than it got latents.
    """
    spec = items[0].spec
    # What goes one by one walks through the plain decoder.
    fast = None if spec.reproducible or MemoryMode.among(switches).is_one_by_one else loaded.fast
    images = _run(loaded, items, device, loaded.dtype, switches, fast)
    by = switches if fast is None else (*switches, *fast.switches)
    flags, made = torch.isfinite(images).flatten(1).all(1), finished(images, spec)
    del images
    if stays(made, spec):
        (flags,) = to_host(flags)
    else:
        flags, made = to_host(flags, made)
    finite, done, start = flags.tolist(), [], 0
    for item in items:
        part = slice(start, start + item.spec.count)
        start = part.stop
        if all(finite[part]):
            done.append(decoded(made[part], item.spec, dtype_name(loaded.dtype), by))
        else:
            done.append(_widened(loaded, item, device, switches))
    return done


def _widened(loaded: LoadedVae, item: BatchItem, device: torch.device, switches: tuple[str, ...]) -> Decoded:
    """Decode a job alone in the widest dtype, by the plain decoder: folded weights stay narrow."""
    images = run_widest(loaded, item.spec, lambda dtype: _run(loaded, [item], device, dtype, switches))
    made = finished(images, item.spec)
    if not stays(made, item.spec):
        (made,) = to_host(made)
    return decoded(made, item.spec, dtype_name(WIDEST), switches, widened_from=dtype_name(loaded.dtype))


def _run(
    loaded: LoadedVae,
    items: Sequence[BatchItem],
    device: torch.device,
    dtype: torch.dtype,
    switches: tuple[str, ...],
    fast: FastDecoder | None = None,
) -> torch.Tensor:
    """(n, 3 or 4, height, width) in [-1, 1], of videos (n, 3 or 4, frames, height, width): the pipeline's own steps, in
    the VAE's dtype."""
    spec = items[0].spec
    held = [item.latents.torch() for item in items]
    latents = to_device(held, device, held[0].dtype if loaded.family.casts_late else dtype)
    mode = MemoryMode.among(switches)
    of_diffusers = [name for name in switches if name != mode or mode.is_of_diffusers]
    with torch.inference_mode(), switched_on(loaded.module, of_diffusers):
        network = fast.decode if fast else _network(loaded, mode)
        in_tiles = mode is MemoryMode.FRAME_TILES
        images = loaded.family.decode(loaded.module, latents, spec, network, in_frame_tiles=in_tiles)
    count = sum(item.spec.count for item in items)
    if len(images) != count:
        raise BatchMismatch(f"VAE {spec.vae!r} gave {len(images)} pictures for {count} latents")
    if images.ndim == 5 and images.shape[2] != spec.num_frames:
        raise BatchMismatch(f"VAE {spec.vae!r} gave {images.shape[2]} frames where {spec.num_frames} were expected")
    return images


def _network(loaded: LoadedVae, mode: MemoryMode) -> Network:
    """What decodes what `vae.decode` takes."""
    if not mode.is_one_by_one:
        return whole
    by_frame = mode is MemoryMode.FRAME_BY_FRAME
    unknown = (by_frames if by_frame else strips).unknown_part(loaded.module)
    if unknown is not None:
        what = "a decode frame by frame does" if by_frame else "strips do"
        raise OutOfMemory(f"no room, and VAE {loaded.described.id!r} has a part that {what} not know: {unknown}")
    return by_frames.decode if by_frame else partial(strips.decode, recompute=mode is MemoryMode.THIRD)
