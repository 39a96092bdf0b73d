"""A device and endpoints as one decoder: what a worker with both, or with endpoints alone, serves.

The device decodes batches, the endpoints are asked job by job; whichever a job goes to is `sides`' and `sharing`'s to
say. Here is what the two serve together.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vaefarm_shared.errors import DeviceFault, EndpointsAway, VaeUnavailable
from vaefarm_shared.job import JobSpec

from .decoder import Batch, Decoded, Decoder, Encoded, ServedVae
from .memory_mode import MemoryMode

if TYPE_CHECKING:
    from .remote.remote_decoder import RemoteDecoder

logger = logging.getLogger(__name__)


class PooledDecoder:
    """Endpoints, and a device as long as it is well.

    It may be lost at any moment, on its own thread: whoever asks reads `local` once.
    """

    def __init__(self, local: Decoder | None, remote: "RemoteDecoder", device_fault: str | None = None) -> None:
        """`device_fault`: why there is no device, where there should be one."""
        #: None where there is none, or none any more.
        self.local = local
        self.remote = remote
        #: Why the device is not used; None while it is well, or where there is none.
        self.device_fault = device_fault
        self._device_id = (local or remote).device_id

    def lose_device(self, fault: str) -> None:
        """Go on with endpoints alone: the device is at fault."""
        self.local, self.device_fault = None, fault

    @property
    def device(self) -> str:
        """The device's name, else what endpoints are called."""
        return (self.local or self.remote).device

    @property
    def device_id(self) -> str:
        """What tells the device apart, also one that is lost."""
        return self._device_id

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        """The VAEs that either serves; of those that both do, as the device's weights are."""
        local = self.local
        return {**self.remote.vaes, **(local.vaes if local else {})}

    def has_weights(self, vae: str) -> bool:
        """Whether the device serves a VAE: its contract is then read from the weights."""
        local = self.local
        return local is not None and vae in local.vaes

    def is_hot(self, vae: str) -> bool:
        """Whether it is loaded, or an endpoint can be asked."""
        return any(side.is_hot(vae) for side in self._sides(vae))

    def begin_load(self, vae: str) -> None:
        """Load it on the device."""
        for side in self._sides(vae):
            side.begin_load(vae)

    def load_error(self, vae: str) -> VaeUnavailable | None:
        """Why neither can decode it just now; None where either can. What an endpoint lacks costs a job nothing."""
        errors = [side.load_error(vae) for side in self._sides(vae)]
        return None if None in errors or not errors else errors[-1]

    def on_load(self, notify: Callable[[], None]) -> None:
        """Have `notify` called whenever a load has ended, or endpoints can be asked again."""
        self.remote.on_load(notify)
        if (local := self.local) is not None:
            local.on_load(notify)

    def drop_idle(self) -> None:
        """Drop what the device has not used for long."""
        if (local := self.local) is not None:
            local.drop_idle()

    def max_pixels(self, vae: str) -> int | None:
        """Pixels of the largest picture that either takes; None where one knows no limit."""
        limits = [side.max_pixels(vae) for side in self._sides(vae)]
        known = [limit for limit in limits if limit is not None]
        return None if len(known) < len(limits) else max(known, default=0)

    def batch_pixels(self, vae: str, picture_pixels: int | None = None) -> int | None:
        """The device's."""
        local = self.local
        return local.batch_pixels(vae, picture_pixels) if local is not None and vae in local.vaes else None

    def modes(self, spec: JobSpec) -> Sequence[MemoryMode]:
        """The device's where it serves the VAE, else those of endpoints."""
        return self._side_of(spec.vae).modes(spec)

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        """By the device where it serves the VAE, else by endpoints."""
        return self._side_of(batch.vae).decode(batch, mode=mode)

    def encode(self, batch: Batch) -> list[Encoded]:
        """By the device. Raises EncodesNothing where there is none."""
        return (self.local or self.remote).encode(batch)

    def self_test(self) -> None:
        """Test the device; one that fails is given up."""
        try:
            if (local := self.local) is not None:
                local.self_test()
        except DeviceFault as fault:
            logger.error("the device is at fault, endpoints alone decode: %s", fault)
            self.lose_device(str(fault))

    def describe(self) -> dict[str, Any]:
        """What the worker tells of both; `unavailable` is what it cannot load, `away` what no endpoint decodes now."""
        local = self.local
        told = {
            **self.remote.describe(),
            **(local.describe() if local else {}),
            "device": (local or self.remote).device,
        }
        errors = {vae: error for vae in self.vaes if (error := self.load_error(vae)) is not None}
        away = {vae for vae, error in errors.items() if isinstance(error, EndpointsAway)}
        told["unavailable"] = {vae: str(error) for vae, error in errors.items() if vae not in away}
        told["away"] = {vae: str(errors[vae]) for vae in away}
        return told | ({} if self.device_fault is None else {"device_fault": self.device_fault})

    def close(self) -> None:
        """End every request."""
        self.remote.close()

    def _side_of(self, vae: str) -> Decoder:
        local = self.local
        return local if local is not None and vae in local.vaes else self.remote

    def _sides(self, vae: str) -> list[Decoder]:
        """Those that serve a VAE, the device first."""
        local = self.local
        sides: list[Decoder] = [self.remote] if local is None else [local, self.remote]
        return [side for side in sides if vae in side.vaes]
