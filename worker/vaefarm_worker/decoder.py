"""The seam between the worker's loop and what decodes: a local VAE, a remote endpoint, or a fake."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import VaeUnavailable
from vaefarm_shared.images import Images
from vaefarm_shared.job import JobSpec, Task
from vaefarm_shared.latents import HostTensor, Latents

from .clips import Clip
from .memory_mode import MemoryMode

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ServedVae:
    """A VAE that a decoder has ready."""

    id: str
    contract: Contract
    #: Commit of the repository, or `sha256:` and the start of the weights' digest.
    revision: str
    #: Whether its encoder is there as well.
    encodes: bool = True


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One job of a batch: what was asked, and the latents or, of an encode, the images."""

    spec: JobSpec
    tensor: Latents | Images

    @property
    def latents(self) -> Latents:
        """The latents of a decode."""
        assert isinstance(self.tensor, Latents)
        return self.tensor

    @property
    def images(self) -> Images:
        """The images of an encode."""
        assert isinstance(self.tensor, Images)
        return self.tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that are decoded, or encoded, together: all of one VAE, shape and dtype."""

    items: tuple[BatchItem, ...]

    @property
    def vae(self) -> str:
        """The VAE of every item."""
        return self.items[0].spec.vae

    @property
    def task(self) -> Task:
        """What is done with every item."""
        return self.items[0].spec.task


@dataclass(frozen=True, slots=True)
class Decoded:
    """One item's pictures and how they were made: pixels, clips, files that are encoded already, or a raw tensor."""

    #: (count, height, width, 3 or 4) uint8; None where `clips`, `files` or `tensor` holds the pictures.
    pixels: Pixels | None
    dtype: str
    widened_from: str | None = None
    switches: tuple[str, ...] = ()
    #: Of a job that makes videos: each of them.
    clips: tuple[Clip, ...] = ()
    #: Each picture's file in the format that the job wants, where the decoder made files.
    files: tuple[bytes, ...] = ()
    #: Of a job that wants output_type='pt': (count, 3 or 4, height, width) float16, of videos (count, 3 or 4, frames,
    #: height, width), as the decoder gave it.
    tensor: HostTensor | None = None
    #: Of what an endpoint decoded: its name, and the revision of its weights where it tells.
    endpoint: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item's latents, as an img2img pipeline holds them, and how they were made."""

    #: (count, channels, height / scale, width / scale).
    latents: Latents
    dtype: str
    widened_from: str | None = None
    switches: tuple[str, ...] = ()


class Decoder(Protocol):
    """What decodes, and encodes. Called by one thread at a time."""

    @property
    def device(self) -> str:
        """The device's name, for records."""
        ...

    @property
    def device_id(self) -> str:
        """What tells the device apart from others of this host, and stays when the process ends: a GPU's UUID."""
        ...

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        """The VAEs that it decodes, by id; not all of them need be loaded."""
        ...

    def is_hot(self, vae: str) -> bool:
        """Whether a VAE is loaded. From any thread."""
        ...

    def begin_load(self, vae: str) -> None:
        """Load a VAE beside whatever is decoded, unless it is loaded or that failed just now. From any thread."""
        ...

    def load_error(self, vae: str) -> VaeUnavailable | None:
        """Why a VAE cannot be loaded just now; None where it is loaded or may be tried. From any thread."""
        ...

    def on_load(self, notify: Callable[[], None]) -> None:
        """Have `notify` called whenever a load has ended."""
        ...

    def drop_idle(self) -> None:
        """Drop the VAEs that nobody has used for long. From any thread."""
        ...

    def max_pixels(self, vae: str) -> int | None:
        """Output pixels of the largest picture that the device could hold alone; None where it knows no limit."""
        ...

    def batch_pixels(self, vae: str, picture_pixels: int | None = None) -> int | None:
        """Output pixels that one batch may have now, by the memory that is free; None where it knows no limit.

        Args:
            picture_pixels: Pixels of each of its pictures; what larger ones found no room for then says nothing.
        """
        ...

    def modes(self, spec: JobSpec) -> Sequence[MemoryMode]:
        """The modes that are worth a try for a job alone, the plainest first.

        Of an encode and of a reproducible job, whose bits are the pipeline's, at most WHOLE.
        """
        ...

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        """One Decoded for each item of the batch, in its order.

        Args:
            mode: Another than WHOLE for a job alone that the device has no room for whole.

        Raises:
            OutOfMemory: the device has no room for the batch; nothing of it is held any more.
            DeviceFault: the device or its driver is at fault.
            VaeUnavailable: its VAE cannot be loaded.
            DecodeError: the decode went wrong; its class says whether another try can help.
        """
        ...

    def encode(self, batch: Batch) -> list[Encoded]:
        """One Encoded for each item of a batch of encodes, in its order.

        Raises:
            OutOfMemory, DeviceFault, DecodeError: as `decode`.
        """
        ...

    def self_test(self) -> None:
        """Decode a known latent of each VAE and compare with its known picture.

        Raises:
            DeviceFault: it is another picture, or the decode fails.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What a worker tells of it: device, memory, dtypes."""
        ...


class AlwaysHot:
    """The part of a Decoder that loads, for one that has nothing to load."""

    def is_hot(self, vae: str) -> bool:
        """True."""
        return True

    def begin_load(self, vae: str) -> None:
        """Nothing is loaded."""

    def load_error(self, vae: str) -> VaeUnavailable | None:
        """None."""
        return None

    def on_load(self, notify: Callable[[], None]) -> None:
        """Nothing is loaded."""

    def drop_idle(self) -> None:
        """Nothing can be dropped."""
