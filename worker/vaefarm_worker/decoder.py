"""The seam between the worker's loop and what decodes: a local VAE, a remote endpoint, or a fake."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import Latents

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ServedVae:
    """A VAE that a decoder has ready."""

    id: str
    contract: Contract
    #: Commit of the repository, or `sha256:` and the start of the weights' digest.
    revision: str


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One job of a batch: what was asked and the latents."""

    spec: JobSpec
    latents: Latents


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that are decoded together: all of one VAE, latent shape and dtype."""

    items: tuple[BatchItem, ...]

    @property
    def vae(self) -> str:
        """The VAE of every item."""
        return self.items[0].spec.vae


@dataclass(frozen=True, slots=True)
class Decoded:
    """One item's pictures, (count, height, width, 3) uint8, and how they were made."""

    pixels: Pixels
    dtype: str
    widened_from: str | None = None
    switches: tuple[str, ...] = ()


class Decoder(Protocol):
    """What decodes. Called by one thread at a time."""

    @property
    def device(self) -> str:
        """The device's name, for records."""
        ...

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        """The VAEs that are loaded, by id."""
        ...

    def decode(self, batch: Batch) -> list[Decoded]:
        """One Decoded for each item of the batch, in its order.

        Raises:
            DecodeError: the decode went wrong; its class says whether another try can help.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What a worker tells of it: device, memory, dtypes."""
        ...
