"""Which side of a worker decodes a job: its device, an endpoint, or either."""

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Final

from vaefarm_shared.errors import EndpointFailed, EndpointRefused, OutOfMemory, VaeUnavailable
from vaefarm_shared.job import JobSpec
from vaefarm_shared.queues import size_classes

from .decoder import Decoder
from .pooled_decoder import PooledDecoder
from .registration import sizes_of
from .sharing import Side

if TYPE_CHECKING:
    from .remote.remote_decoder import RemoteDecoder

#: Jobs that turned to the other side, of which that is remembered.
MOST_TURNS: Final[int] = 10_000


class Sides:
    """What each side of one worker takes, and which jobs went from one to the other."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._lock = Lock()
        self._turned: OrderedDict[str, Side] = OrderedDict()

    @property
    def local(self) -> Decoder | None:
        """What decodes on the device; None where there is none, or none any more."""
        return self._decoder.local if isinstance(self._decoder, PooledDecoder) else self._decoder

    @property
    def remote(self) -> "RemoteDecoder | None":
        """What asks endpoints; None where there are none."""
        return self._decoder.remote if isinstance(self._decoder, PooledDecoder) else None

    def of(self, spec: JobSpec) -> Side:
        """Who may decode a job.

        Raises:
            EndpointRefused: the device does not serve it, and no endpoint can be asked for it; says why.
        """
        with self._lock:
            turned = self._turned.get(spec.id)
        if turned is not None and self._takes(turned, spec):
            return turned
        device, endpoint = self._takes(Side.DEVICE, spec), self._takes(Side.ENDPOINT, spec)
        if device and endpoint:
            return Side.EITHER
        if device:
            return Side.DEVICE
        if endpoint:
            return Side.ENDPOINT
        raise EndpointRefused(f"it cannot be forwarded: {self._refusal(spec)}")

    def forwarded_sizes(self, vae: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Size classes of which endpoints that can be asked now take every picture: those that the device does not,
        and those that it takes as well.
        """
        local, remote = self.local, self.remote
        if remote is None or vae not in remote.vaes:
            return (), ()
        taken = size_classes(remote.max_pixels_now(vae), remote.vaes[vae].contract.max_pixels)
        held = sizes_of(local, vae) if local is not None and vae in local.vaes else ()
        return tuple(one for one in taken if one not in held), tuple(one for one in taken if one in held)

    def turn(self, spec: JobSpec, error: Exception) -> bool:
        """Whether a job that one side could not do is the other's from now on: each job turns once."""
        if isinstance(error, EndpointRefused | EndpointFailed):
            other = Side.DEVICE
        elif isinstance(error, OutOfMemory | VaeUnavailable):
            other = Side.ENDPOINT
        else:
            return False
        with self._lock:
            if spec.id in self._turned or not self._takes(other, spec):
                return False
            self._turned[spec.id] = other
            if len(self._turned) > MOST_TURNS:
                self._turned.popitem(last=False)
        return True

    def forget(self, job_id: str) -> None:
        """A job has ended: retried under its id, it begins anew."""
        with self._lock:
            self._turned.pop(job_id, None)

    def _takes(self, side: Side, spec: JobSpec) -> bool:
        if side is Side.ENDPOINT:
            return self.remote is not None and spec.vae in self.remote.vaes and self._refusal(spec) is None
        local = self.local
        if local is None or spec.vae not in local.vaes:
            return False
        if spec.task == "encode":
            return local.vaes[spec.vae].encodes
        most = local.max_pixels(spec.vae)
        # Without endpoints a device tries what it was given.
        return self.remote is None or most is None or spec.picture_pixels <= most

    def _refusal(self, spec: JobSpec) -> str | None:
        if self.remote is None or spec.vae not in self.remote.vaes:
            return f"there is no endpoint of VAE {spec.vae!r}"
        return self.remote.refusal(spec)
