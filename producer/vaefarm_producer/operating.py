"""What an operator asks of a `Farm`: how it stands, and what it shall leave alone for now."""

from collections.abc import Iterator

from vaefarm_shared.failures import FailedJob
from vaefarm_shared.overview import Overview
from vaefarm_shared.quarantine import Device
from vaefarm_shared.reading import QueueDepth
from vaefarm_shared.workers import WorkerEndpoint

from .transport import Transport


class Operating:
    """The operator's half of `Farm`. Every method raises FarmUnavailable when the farm is not reachable."""

    _transport: Transport

    def overview(self) -> Overview:
        """How the farm stands now: VAEs and what waits, workers, totals, newest failures, warnings. Two round trips.

        Counters only grow: the difference of two looks is what happened between them.
        """
        return self._transport.overview()

    def queues(self) -> list[QueueDepth]:
        """How many jobs wait on each queue."""
        return self._transport.queues()

    def workers(self) -> list[dict[str, object]]:
        """What each living worker says of itself: name, VAEs, device, since when."""
        return self._transport.workers()

    def endpoints(self) -> list[WorkerEndpoint]:
        """The remote endpoints that living workers ask, one for each worker: its circuit, load, latency and errors."""
        return self._transport.endpoints()

    def pause(self, vae: str) -> bool:
        """Let no worker take jobs of a VAE; they are still taken in, and those in hand go on.

        Returns False where it was paused already. Raises UnknownVae.
        """
        self._transport.contract(vae)
        return self._transport.pause(vae)

    def resume(self, vae: str) -> bool:
        """Let workers take jobs of a VAE again; False where it was not paused. Raises UnknownVae."""
        if self._transport.resume(vae):
            return True
        self._transport.contract(vae)
        return False

    def paused(self) -> list[str]:
        """The paused VAEs, sorted."""
        return self._transport.paused()

    def failed(self, vae: str | None = None) -> Iterator[FailedJob]:
        """The failed jobs of a VAE, or of all, in no order, with the reason of each; `Job.retry` puts one back."""
        return self._transport.failed(vae)

    def quarantined(self) -> list[Device]:
        """The devices that no worker uses, since they kept failing."""
        return self._transport.quarantined()

    def devices(self) -> list[Device]:
        """Devices that workers have, that failed within ten minutes or are quarantined; walks over every key."""
        return self._transport.devices()

    def release(self, device_id: str) -> bool:
        """Let a quarantined device be used again; False where it was not quarantined."""
        return self._transport.release(device_id)

    def ping(self) -> None:
        """Return if the farm is reachable now, without waiting for it. Raises FarmUnavailable."""
        self._transport.ping()
