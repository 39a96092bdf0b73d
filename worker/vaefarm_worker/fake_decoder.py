"""A decoder without torch: it measures the farm itself, and tests the loop. Its pictures are stripes by the latents."""

import hashlib
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.errors import ConfigurationError, OutOfMemory
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import HostTensor, Latents

from .clips import Clip, Frames
from .decoder import AlwaysHot, Batch, BatchItem, Decoded, Encoded, ServedVae
from .fake_files import fake_png
from .memory_mode import MemoryMode

#: Part of a whole decode's memory that one takes in each mode.
SHARES: Final[Mapping[MemoryMode, float]] = {
    MemoryMode.WHOLE: 1.0,
    MemoryMode.FRAME_BY_FRAME: 0.6,
    MemoryMode.HALF: 0.5,
    MemoryMode.THIRD: 0.3,
    MemoryMode.FRAME_TILES: 0.275,
    MemoryMode.TILED: 0.25,
}


class FakeDecoder(AlwaysHot):
    """Deterministic pictures and latents after a settable time, in a settable memory."""

    def __init__(
        self,
        entries: Iterable[VaeEntry],
        seconds_per_batch: float = 0.0,
        image_bytes: int | None = None,
        memory_bytes: int | None = None,
        bytes_per_pixel: int = 4096,
        admit: bool = False,
        decode_only: bool = False,
        modes: Sequence[MemoryMode] = (MemoryMode.WHOLE, MemoryMode.TILED),
        device: str | None = None,
    ) -> None:
        """Serve every entry.

        Args:
            image_bytes: Where a job wants PNG, and no metadata in it, give finished files of exactly that size: nothing
                is left to encode.
            memory_bytes: What a batch has room in; without it, any has.
            admit: Tell what fits beforehand, rather than run out of memory.
            decode_only: Encode nothing.
            modes: Those in which a job may be decoded.
            device: The id of one of several made-up devices, the same on every host.

        Raises:
            ConfigurationError: an entry's contract is known to its weights alone; or no picture fits `image_bytes`.
        """
        self._seconds_per_batch = seconds_per_batch
        self._image_bytes = image_bytes
        self._memory_bytes = memory_bytes
        self._bytes_per_pixel = bytes_per_pixel
        self._admit = admit
        self._modes = tuple(modes)
        self._device = device
        self._vaes: dict[str, ServedVae] = {}
        for entry in entries:
            if entry.contract is None:
                raise ConfigurationError(f"VAE {entry.id!r}: the fake decoder needs a contract in the catalogue")
            self._vaes[entry.id] = ServedVae(entry.id, entry.contract, "fake", not decode_only)
            if image_bytes is not None:
                fake_png(entry.contract.spatial_scale, entry.contract.spatial_scale, image_bytes, b"")

    @property
    def device(self) -> str:
        """The made-up one's, where there are several."""
        return self._device or "fake"

    @property
    def device_id(self) -> str:
        """The made-up one's; else the same for all of this host."""
        return self._device or f"{socket.gethostname()}-fake"

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        """Every entry it was given."""
        return self._vaes

    def describe(self) -> dict[str, Any]:
        """What a worker tells of it."""
        return {
            "device": self.device,
            "seconds_per_batch": self._seconds_per_batch,
            "image_bytes": self._image_bytes,
            "memory_bytes": self._memory_bytes,
        }

    def max_pixels(self, vae: str) -> int | None:
        """What the memory holds, where it was asked to tell."""
        if self._memory_bytes is None or not self._admit:
            return None
        return self._memory_bytes // self._bytes_per_pixel

    def batch_pixels(self, vae: str, picture_pixels: int | None = None) -> int | None:
        """The same: nothing else takes of its memory."""
        return self.max_pixels(vae)

    def modes(self, spec: JobSpec) -> Sequence[MemoryMode]:
        """Those it was given; of an encode and a reproducible job WHOLE alone."""
        return (MemoryMode.WHOLE,) if spec.reproducible or spec.task == "encode" else self._modes

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        """Wait, then give each item its stripes, or its file.

        Raises:
            OutOfMemory: the batch's pixels take more than the memory there is.
            ConfigurationError: a picture of that size takes more than `image_bytes`.
        """
        self._take_memory(batch, mode)
        time.sleep(self._seconds_per_batch)
        return [self._decoded(item, mode.switches) for item in batch.items]

    def encode(self, batch: Batch) -> list[Encoded]:
        """Wait, then give each item latents that repeat a digest of its images and seed.

        Raises:
            OutOfMemory: the batch's pixels take more than the memory there is.
        """
        self._take_memory(batch, MemoryMode.WHOLE)
        time.sleep(self._seconds_per_batch)
        return [Encoded(digest_latents(item), "fake") for item in batch.items]

    def self_test(self) -> None:
        """No device, and so none that could be at fault."""

    def _take_memory(self, batch: Batch, mode: MemoryMode) -> None:
        pixels = sum(item.spec.pixels for item in batch.items)
        taken = int(pixels * self._bytes_per_pixel * SHARES[mode])
        if self._memory_bytes is not None and taken > self._memory_bytes:
            raise OutOfMemory(
                f"fake has no room to {batch.task} {pixels} pixels: {taken} bytes of {self._memory_bytes}"
            )

    def _decoded(self, item: BatchItem, switches: tuple[str, ...]) -> Decoded:
        spec = item.spec
        if spec.output_type == "pt":
            return Decoded(None, "fake", switches=switches, tensor=raw_stripes(item))
        if spec.num_frames is not None:
            return Decoded(None, "fake", switches=switches, clips=striped_clips(item))
        if self._image_bytes is None or spec.image_format != "png" or spec.embeds_metadata:
            return Decoded(stripes(item), "fake", switches=switches)
        size = self._image_bytes
        files = tuple(fake_png(*spec.picture_size, size, latent.data) for latent in item.latents.array)
        return Decoded(None, "fake", switches=switches, files=files)


def digest_latents(item: BatchItem) -> Latents:
    """(count, c, h, w) float32 in [0, 1] that repeat a digest of each image and of the job's seed."""
    spec = item.spec
    array = np.empty(spec.shape, np.float32)
    for index, image in enumerate(item.images.array):
        digest = hashlib.sha256(image.tobytes() + str(spec.seed).encode()).digest()
        array[index] = np.resize(np.frombuffer(digest, np.uint8), spec.shape[1:]) / np.float32(255)
    return Latents(array, "float32")


def stripes(item: BatchItem) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(count, height, width, 3 or 4) uint8 whose rows repeat a digest of each latent."""
    spec = item.spec
    height, width = spec.picture_size
    pixels = np.empty((spec.count, height, width, spec.picture_channels), np.uint8)
    for index, latent in enumerate(item.latents.array):
        digest = np.frombuffer(hashlib.sha256(latent.tobytes()).digest(), np.uint8)
        pixels[index] = np.resize(digest, (width, spec.picture_channels))
    return pixels


def striped_clips(item: BatchItem) -> tuple[Clip, ...]:
    """The same as videos: each frame is one row further."""
    height, width = item.spec.picture_size
    shape = (item.spec.num_frames or 1, height, width, item.spec.picture_channels)

    def clip(pixels: Frames) -> Clip:
        return Clip(shape, lambda start, stop: np.stack([np.roll(pixels, place, 1) for place in range(start, stop)]))

    return tuple(clip(pixels) for pixels in stripes(item))


def raw_stripes(item: BatchItem) -> HostTensor:
    """(count, 3 or 4, height, width) float16 in [-1, 1]: the same stripes, before they are pixels."""
    raw = stripes(item).transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    if item.spec.num_frames is not None:
        raw = np.repeat(raw[:, :, None], item.spec.num_frames, 2)
    return HostTensor(np.ascontiguousarray(raw, np.float16), "float16")
