"""Decodes by asking endpoints, many requests at a time: behind the seam `Decoder`, and for the forwarder one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.errors import EndpointsAway
from vaefarm_shared.job import JobSpec

from ..decoder import Batch, BatchItem, Decoded, Encoded, ServedVae


@dataclass(frozen=True, slots=True)
class RemoteVae:
    """A VAE and the endpoints that decode it."""

    entry: VaeEntry
    endpoints: tuple[EndpointEntry, ...]


#: Told what became of one job, and after how many seconds; on a thread of the decoder's own.
OnDone = Callable[[Decoded | Exception, float], None]


class RemoteDecoder:
    """Endpoints behind the seam `Decoder`. Every method may be called from any thread."""

    def __init__(self, vaes: Sequence[RemoteVae], *, plain: bool = False, trust_env: bool = False) -> None:
        """Begin a thread with an event loop; no endpoint is asked anything yet.

        Args:
            plain: Ask for pixels always: steps after the decode need them.
            trust_env: Whether the proxy that HTTPS_PROXY names is used.

        Raises:
            ConfigurationError: a VAE without a contract in the catalogue, an endpoint that is neither https nor this
                machine and was not allowed, a token's variable that is not set.
        """
        raise NotImplementedError

    @property
    def device(self) -> str:
        """`remote`, for records; the report names the endpoint."""
        raise NotImplementedError

    @property
    def device_id(self) -> str:
        """The same for all of this host: no device of it can be at fault."""
        raise NotImplementedError

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        """The VAEs that have endpoints; none of them encodes."""
        raise NotImplementedError

    def is_hot(self, vae: str) -> bool:
        """Whether an endpoint of the VAE can be asked now: its circuit is closed and it does not rest."""
        raise NotImplementedError

    def begin_load(self, vae: str) -> None:
        """Nothing is loaded."""

    def load_error(self, vae: str) -> EndpointsAway | None:
        """Why no endpoint of the VAE can be asked now; None where one can."""
        raise NotImplementedError

    def on_load(self, notify: Callable[[], None]) -> None:
        """Have `notify` called whenever an endpoint can be asked again, or a slot is free again."""
        raise NotImplementedError

    def drop_idle(self) -> None:
        """Nothing can be dropped."""

    def max_pixels(self, vae: str) -> int | None:
        """Pixels of the largest picture that one of the VAE's endpoints takes, whatever state it is in."""
        raise NotImplementedError

    def max_pixels_now(self, vae: str) -> int:
        """The same of those endpoints that can be asked now; 0 where none can."""
        raise NotImplementedError

    def batch_pixels(self, vae: str, picture_pixels: int | None = None) -> int | None:
        """None: an endpoint is asked for one picture at a time."""
        return None

    def slots(self, vae: str) -> int:
        """Requests that the VAE's endpoints take at a time, those that can be asked now."""
        raise NotImplementedError

    def free_slots(self, vae: str) -> int:
        """How many more jobs `start` may be given now, as endpoints have slots that are free."""
        raise NotImplementedError

    def expected_seconds(self, vae: str) -> float | None:
        """What a request that is begun now should take, by the endpoint that would be asked; None where none can be."""
        raise NotImplementedError

    def refusal(self, spec: JobSpec) -> str | None:
        """Why no endpoint can be asked for a job, whatever state they are in; None where one can."""
        raise NotImplementedError

    def start(self, item: BatchItem, on_done: OnDone) -> None:
        """Have an endpoint decode one job; returns at once. `on_done` is called exactly once, with

        Decoded: its pictures;
        EndpointRefused: the endpoints that were asked will not decode it (400, 422, too large);
        EndpointFailed: they gave no picture of it, while they decode a known latent: the job may be at fault;
        EndpointsAway: none can be asked now, which is no fault of the job's.
        """
        raise NotImplementedError

    def decode(self, batch: Batch, *, tiled: bool = False) -> list[Decoded]:
        """One Decoded for each item, asked for at the same time; blocks. Raises the first item's error."""
        raise NotImplementedError

    def encode(self, batch: Batch) -> list[Encoded]:
        """Raises EncodesNothing."""
        raise NotImplementedError

    def self_test(self) -> None:
        """No device, and so none that could be at fault."""

    def describe(self) -> dict[str, Any]:
        """`endpoints`: an EndpointState of each, as JSON's values."""
        raise NotImplementedError

    def close(self) -> None:
        """End every request, each with EndpointsAway, and the thread."""
        raise NotImplementedError
