"""Decoding with diffusers' VAEs on a device of this machine."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.errors import BatchMismatch, ConfigurationError, NonFiniteImage, OutOfMemory
from vaefarm_shared.latents import Latents

from .decoder import Batch, BatchItem, Decoded, Pixels, ServedVae
from .families import packing, scale_shift
from .vaes import LoadedVae, load_vae

logger = logging.getLogger(__name__)

#: The dtype in which a decode that was not finite is tried once more.
WIDEST: Final[torch.dtype] = torch.float32


def choose_device(name: str) -> torch.device:
    """The torch device of that name; 'auto' takes CUDA, else MPS, else the CPU.

    Raises:
        ConfigurationError: it is not there, or this torch was built without it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise ConfigurationError(
            f"device {name!r} cannot be used: {first_line}; expected auto, cpu, cuda:N, mps or xpu"
        ) from error
    return device


class LocalDecoder:
    """Diffusers' VAEs, loaded once and kept."""

    def __init__(self, entries: Iterable[VaeEntry], device: str = "auto") -> None:
        """Load every entry. Raises ConfigurationError, naming the first that cannot be served."""
        self._device = choose_device(device)
        self._loaded = {entry.id: load_vae(entry, self._device) for entry in entries}

    @property
    def device(self) -> str:
        """The device's name, with that of its chip where it has one."""
        if self._device.type == "cuda":
            return f"{self._device} ({torch.cuda.get_device_name(self._device)})"
        return str(self._device)

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        """The VAEs that are loaded, by id."""
        return {vae: loaded.served for vae, loaded in self._loaded.items()}

    def describe(self) -> dict[str, Any]:
        """Device, threads and each VAE's dtype."""
        dtypes = {vae: str(loaded.dtype).removeprefix("torch.") for vae, loaded in self._loaded.items()}
        return {"device": self.device, "threads": torch.get_num_threads(), "dtypes": dtypes}

    def decode(self, batch: Batch) -> list[Decoded]:
        """Decode each item with its own latents in one call.

        Raises:
            NonFiniteImage: NaN or Inf, also in float32.
            OutOfMemory: the device has no room.
            BatchMismatch: the VAE gave another number of pictures than it got latents.
        """
        return [self._decode_item(self._loaded[batch.vae], item) for item in batch.items]

    def _decode_item(self, loaded: LoadedVae, item: BatchItem) -> Decoded:
        images = self._run(loaded, item, loaded.dtype)
        widened_from = None
        if not bool(torch.isfinite(images).all()) and loaded.dtype != WIDEST:
            widened_from = loaded.dtype
            logger.warning("job %s is not finite in %s; once more in %s", item.spec.id, widened_from, WIDEST)
            del images
            loaded.module.to(WIDEST)
            try:
                images = self._run(loaded, item, WIDEST)
            finally:
                # Float16 to float32 and back changes no weight.
                loaded.module.to(loaded.dtype)
        if not bool(torch.isfinite(images).all()):
            raise NonFiniteImage(f"VAE {item.spec.vae!r} decodes these latents to NaN or Inf, also in {WIDEST}")
        if len(images) != item.spec.count:
            raise BatchMismatch(f"VAE {item.spec.vae!r} gave {len(images)} pictures for {item.spec.count} latents")
        return Decoded(
            to_pixels(images),
            _name(WIDEST if widened_from else loaded.dtype),
            widened_from=_name(widened_from) if widened_from else None,
        )

    def _run(self, loaded: LoadedVae, item: BatchItem, dtype: torch.dtype) -> torch.Tensor:
        """(n, 3, height, width) in [-1, 1]: the pipeline's own steps, in the VAE's dtype."""
        spec = item.spec
        latents = to_tensor(item.latents).to(self._device, dtype)
        if spec.layout == "packed":
            scale = loaded.served.contract.spatial_scale
            latents = packing.unpack_2x2(latents, spec.height, spec.width, scale)
        try:
            with torch.inference_mode():
                decoder_input = scale_shift.denormalise(latents, loaded.module.config)
                images: torch.Tensor = loaded.module.decode(decoder_input, return_dict=False)[0]
                return images
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{self.device} has no room to decode {spec.count} pictures of {spec.width} x {spec.height}"
            ) from error


def to_tensor(latents: Latents) -> torch.Tensor:
    """A torch tensor of the same dtype and shape, in memory of its own."""
    dtype = getattr(torch, latents.dtype)
    return torch.frombuffer(bytearray(latents.array.tobytes()), dtype=dtype).reshape(latents.shape)


def to_pixels(images: torch.Tensor) -> Pixels:
    """(n, 3, height, width) in [-1, 1] -> (n, height, width, 3) uint8, converted on the device.

    The steps and their order are VaeImageProcessor.denormalize, .pt_to_numpy and .numpy_to_pil of diffusers, so
    that each value is the pipeline's: `x * 127.5 + 127.5` differs in a few values per million.
    """
    unit = (images * 0.5 + 0.5).clamp(0, 1)
    pixels: Pixels = unit.float().mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
