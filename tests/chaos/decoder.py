"""A decoder for tests of failure: deterministic pictures, latents that do harm, devices that are at fault."""

import ctypes
import os
import time
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import DeviceFault, NonFiniteImage, OutOfMemory
from vaefarm_shared.job import JobSpec
from vaefarm_worker.decoder import AlwaysHot, Batch, Decoded, Encoded, ServedVae
from vaefarm_worker.fake_decoder import stripes
from vaefarm_worker.memory_mode import MemoryMode

#: The one VAE that it serves.
VAE: Final[str] = "demo"


class Poison(IntEnum):
    """What a latent does to its decode, as its first value says."""

    RAISES = 1001
    EXITS = 1002
    HANGS = 1003
    HANGS_WITH_THE_GIL = 1004
    NOT_FINITE = 1005


def latents(number: int, poison: Poison | None = None, size: int = 8) -> npt.NDArray[np.float32]:
    """(1, 4, size, size) latents that no other number has; poisonous where told."""
    array = np.random.default_rng(number).standard_normal((1, 4, size, size)).astype(np.float32)
    array.flat[0] = number % 1000 if poison is None else poison
    return array


class ChaosDecoder(AlwaysHot):
    """Stripes, as the fake decoder's, after a settable time and where nothing is made to fail."""

    def __init__(self, seconds: float = 0.0, faulty_after: int | None = None, memory_pixels: int | None = None) -> None:
        """
        Args:
            seconds: What a batch takes.
            faulty_after: Decodes after which each further call fails until the process ends; 0: a broken device.
            memory_pixels: Output pixels of the largest batch that the device holds.
        """
        self._seconds = seconds
        self._decodes_left = faulty_after
        self._memory_pixels = memory_pixels
        contract = Catalogue.load()[VAE].contract
        assert contract is not None
        self._vaes = {VAE: ServedVae(VAE, contract, "chaos")}

    @property
    def device(self) -> str:
        return "chaos"

    @property
    def device_id(self) -> str:
        return f"chaos-{os.environ.get('CHAOS_DEVICE', os.getpid())}"

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        return self._vaes

    def max_pixels(self, vae: str) -> int | None:
        return None

    def batch_pixels(self, vae: str, picture_pixels: int | None = None) -> int | None:
        return None

    def modes(self, spec: JobSpec) -> Sequence[MemoryMode]:
        return (MemoryMode.WHOLE,)

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        time.sleep(self._seconds)
        if self._decodes_left == 0:
            raise DeviceFault("CUDA error: an illegal memory access was encountered (made up)")
        if self._decodes_left is not None:
            self._decodes_left -= 1
        if self._memory_pixels is not None and sum(item.spec.pixels for item in batch.items) > self._memory_pixels:
            raise OutOfMemory(f"the device holds {self._memory_pixels} pixels (made up)")
        for item in batch.items:
            harm(float(item.latents.array.flat[0]))
        return [Decoded(stripes(item), "float32") for item in batch.items]

    def encode(self, batch: Batch) -> list[Encoded]:
        raise NotImplementedError("nothing is encoded in the storm")

    def self_test(self) -> None:
        if self._decodes_left == 0:
            raise DeviceFault("the known latent no longer decodes to its known picture (made up)")

    def describe(self) -> dict[str, Any]:
        return {"device": self.device}


def harm(first_value: float) -> None:
    """Do what a poisonous latent does."""
    match first_value:
        case Poison.RAISES:
            raise ValueError("this latent cannot be decoded (made up)")
        case Poison.EXITS:
            os._exit(1)
        case Poison.HANGS:
            while True:
                time.sleep(3600)
        case Poison.HANGS_WITH_THE_GIL:
            while True:
                ctypes.PyDLL(None).sleep(3600)
        case Poison.NOT_FINITE:
            raise NonFiniteImage("the picture has NaN (made up)")
