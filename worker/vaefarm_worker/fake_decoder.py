"""A decoder without torch: it measures the farm itself, and tests the loop. Its pictures are stripes by the latents."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.errors import ConfigurationError

from .decoder import Batch, BatchItem, Decoded, ServedVae


class FakeDecoder:
    """Deterministic pictures after a settable time."""

    def __init__(self, entries: Iterable[VaeEntry], seconds_per_batch: float = 0.0) -> None:
        """Raises ConfigurationError for an entry whose contract only its weights would tell."""
        self._seconds_per_batch = seconds_per_batch
        self._vaes: dict[str, ServedVae] = {}
        for entry in entries:
            if entry.contract is None:
                raise ConfigurationError(f"VAE {entry.id!r}: the fake decoder needs a contract in the catalogue")
            self._vaes[entry.id] = ServedVae(entry.id, entry.contract, "fake")

    @property
    def device(self) -> str:
        """No device."""
        return "fake"

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        """Every entry it was given."""
        return self._vaes

    def describe(self) -> dict[str, Any]:
        """What a worker tells of it."""
        return {"device": self.device, "seconds_per_batch": self._seconds_per_batch}

    def decode(self, batch: Batch) -> list[Decoded]:
        """Wait, then give each item its stripes."""
        time.sleep(self._seconds_per_batch)
        return [Decoded(stripes(item), "fake") for item in batch.items]


def stripes(item: BatchItem) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(count, height, width, 3) uint8 whose rows repeat a digest of each latent."""
    spec = item.spec
    pixels = np.empty((spec.count, spec.height, spec.width, 3), np.uint8)
    for index, latent in enumerate(item.latents.array):
        digest = np.frombuffer(hashlib.sha256(latent.tobytes()).digest(), np.uint8)
        pixels[index] = np.resize(digest, (spec.width, 3))
    return pixels
