"""Loaded jobs that wait for the device or for an endpoint: where the intake, the binder and the forwarder meet."""

import time
from collections.abc import Callable, Hashable, Sequence
from math import inf
from threading import Condition
from typing import Final, cast

from vaefarm_shared.errors import EndpointsAway, VaeUnavailable
from vaefarm_shared.previews import is_preview

from .batching import MAX_BATCH_JOBS, Batcher, BatchKey, batch_key
from .claiming import FIRST_JOBS
from .loading import Loaded
from .sharing import Side, ahead, overflow
from .station import Station

#: Output pixels of a batch where neither the operator nor the decoder names a limit: 64 pictures of 1024 x 1024.
MOST_PIXELS: Final[int] = 64 * 1024 * 1024

#: Batches whose pixels may wait: one that is next, and one that fills meanwhile.
WAITING_BATCHES: Final[int] = 2

#: Seconds for which the device's free memory is believed, and for how many sizes of picture.
ROOM_SECONDS: Final[float] = 0.25
MOST_SIZES: Final[int] = 1000


class Pool:
    """Jobs by batch key, bounded by what two batches hold, and by endpoints' free slots.

    `changed` is notified whenever anything about it does.
    """

    def __init__(self, station: Station) -> None:
        self._settings = station.settings
        self._sides = station.sides
        self._decoder = station.decoder
        self._cost = station.cost
        self._backlog = station.backlog
        self._rooms: dict[tuple[str, int | None], tuple[float, int | None]] = {}
        self._batcher: Batcher[Loaded] = Batcher(self._is_ready)
        self.changed = Condition()
        #: Seconds that the device needs for what is bound; None while nothing is.
        self.bound_seconds: Callable[[], float | None] = lambda: None

    @property
    def jobs(self) -> int:
        """Jobs that wait."""
        return self._batcher.jobs

    def has_room(self) -> bool:
        """Whether anything may be claimed."""
        return self.room()[0] > 0 or any(jobs > 0 for jobs in self.forward_room().values())

    def is_idle(self) -> bool:
        """Whether nothing waits and the device has nothing: what is claimed next is decoded at once."""
        with self.changed:
            return self._batcher.jobs == 0 and self.bound_seconds() is None

    def room(self) -> tuple[int, int]:
        """Jobs and pixels that may still be claimed for the device; (0, 0) when there is no room.

        Jobs that wait for their VAE's load take none of it: those of the others go on.
        """
        local = self._sides.local
        if local is None:
            return 0, 0
        with self.changed:
            held, held_pixels = self._batcher.ready()
        if not any(self._cost.is_known(vae) for vae in local.vaes):
            jobs = FIRST_JOBS - held
        else:
            jobs = WAITING_BATCHES * MAX_BATCH_JOBS - held
        most = WAITING_BATCHES * max(self._budget(vae) for vae in local.vaes)
        pixels = most - held_pixels
        # One job may always wait, however large it is.
        if jobs <= 0 or (pixels <= 0 and held):
            return 0, 0
        return jobs, max(1, pixels)

    def forward_room(self) -> dict[str, int]:
        """Jobs of each VAE that may be claimed for endpoints which can be asked now, and not for the device."""
        remote, local = self._sides.remote, self._sides.local
        if remote is None:
            return {}
        rooms = {}
        with self.changed:
            for vae in (vae for vae in remote.vaes if remote.is_hot(vae)):
                if local is not None and vae in local.vaes:
                    rooms[vae] = max(0, self._overflow(vae) - self._waiting_for_endpoints(vae))
                else:
                    rooms[vae] = self.endpoint_room(vae)
        return rooms

    def endpoint_room(self, vae: str) -> int:
        """Jobs of a VAE that may be claimed of those which endpoints alone decode."""
        remote = self._sides.remote
        if remote is None:
            return 0
        with self.changed:
            most = remote.free_slots(vae) + ahead(remote.slots(vae))
            return max(0, most - self._waiting_for_endpoints(vae))

    def notify(self) -> None:
        """Wake whoever waits: something outside of the pool has changed that decides what is bound."""
        with self.changed:
            self.changed.notify_all()

    def wait_for_room(self, seconds: float) -> None:
        """Return once there may be room, after `seconds` at the latest."""
        with self.changed:
            self.changed.wait_for(self.has_room, seconds)

    def put(self, jobs: Sequence[tuple[Loaded, Side]]) -> None:
        """Let jobs wait for whoever may decode them."""
        now = time.monotonic()
        with self.changed:
            for one, side in jobs:
                self._cost.note_pixels(one.spec.vae, one.spec.pixels)
                self._add(one, side, now)
            self.changed.notify_all()

    def take(self) -> list[Loaded]:
        """The device's next batch, or nothing while none is to be bound. Call it with `changed` held."""
        taken = self._batcher.take(self._budget_of, time.monotonic(), self._settings.batch_window)
        if taken:
            self.changed.notify_all()
        return taken

    def take_forwarded(self) -> list[Loaded]:
        """Jobs that endpoints have free slots for. Call it with `changed` held.

        What the device may decode as well is left to it while it stands idle, and the newest goes first: the device
        comes to that last.
        """
        remote, local = self._sides.remote, self._sides.local
        if remote is None:
            return []
        taken: list[Loaded] = []
        left = 0
        for vae in remote.vaes:
            free = remote.free_slots(vae)
            own = self._pick(vae, Side.ENDPOINT, free)
            taken += own
            if local is None or not local.is_hot(vae) or self.bound_seconds() is not None:
                taken += self._pick(vae, Side.EITHER, min(free - len(own), self._overflow(vae)), newest=True)
            if len(own) == free:
                left += self._leave_to_device(vae)
        if taken or left:
            self.changed.notify_all()
        return taken

    def take_unloadable(self) -> list[tuple[Loaded, VaeUnavailable]]:
        """The jobs that nobody here can decode just now, and why. Call it with `changed` held."""
        found: list[tuple[Loaded, VaeUnavailable]] = []
        for key in self._batcher.waiting():
            error = self._unavailable(cast(BatchKey, key))
            if error is not None:
                found += [(one, error) for one in self._batcher.remove(key)]
        if found:
            self.changed.notify_all()
        return found

    def waits_for_loads(self) -> bool:
        """Whether jobs wait, all of them for their VAE's load. Call it with `changed` held."""
        return self._batcher.jobs > 0 and self._batcher.ready()[0] == 0

    def waiting_vaes(self) -> set[str]:
        """The VAEs of which jobs wait."""
        with self.changed:
            return {cast(BatchKey, key).vae for key in self._batcher.waiting()}

    def next_is_single(self) -> bool:
        """Whether the device's next batch would have one job. Call it with `changed` held."""
        return self._batcher.next_jobs(self._budget_of) == 1

    def due(self) -> float | None:
        """When, by the monotonic clock, the next batch stops waiting for company; None when no job waits."""
        return self._batcher.due(self._settings.batch_window)

    def clear(self) -> list[Loaded]:
        """Every job that waits; none does afterwards."""
        with self.changed:
            left = self._batcher.clear()
            self.changed.notify_all()
        return left

    def _waiting_for_endpoints(self, vae: str) -> int:
        return self._batcher.count(lambda key: _is_of(key, vae, Side.ENDPOINT))[0]

    def _leave_to_device(self, vae: str) -> int:
        """Let the device have what was claimed for an endpoint that has no slot for it any more; how many jobs."""
        local, now, left = self._sides.local, time.monotonic(), 0
        if local is None or vae not in local.vaes:
            return 0
        for one in self._pick(vae, Side.ENDPOINT, self._batcher.jobs):
            side = self._sides.of(one.spec)
            left += side is not Side.ENDPOINT
            self._add(one, side, now)
        return left

    def _add(self, one: Loaded, side: Side, now: float) -> None:
        # What began with its claim began alone.
        key = batch_key(one.spec, one.alone or one.begun is not None, side)
        # A preview that came after what it shows would be for nothing.
        self._batcher.add(key, one.spec.pixels, one, now, is_first=is_preview(one.spec.id))

    def _pick(self, vae: str, side: Side, most: int, *, newest: bool = False) -> list[Loaded]:
        if most < 1:
            return []
        return self._batcher.pick(lambda key: _is_of(key, vae, side), most, newest=newest)

    def _overflow(self, vae: str) -> int:
        """How many jobs of a VAE that the device serves too go to endpoints now."""
        remote, local = self._sides.remote, self._sides.local
        if remote is None or not (free := remote.free_slots(vae)):
            return 0
        each = self._cost.job_seconds(vae)
        seconds = inf
        if local is not None and local.is_hot(vae):
            waits = sum(
                self._cost.seconds(cast(BatchKey, key).vae, pixels)
                for key, pixels in self._batcher.pixels_by_key()
                if cast(BatchKey, key).side is not Side.ENDPOINT
            )
            seconds = waits + (self.bound_seconds() or 0.0) + self._backlog.share(vae) * each
        return overflow(seconds, each, remote.expected_seconds(vae), free)

    def _unavailable(self, key: BatchKey) -> VaeUnavailable | None:
        remote, local = self._sides.remote, self._sides.local
        if key.side is Side.EITHER:
            return self._decoder.load_error(key.vae)
        if key.side is Side.DEVICE:
            return local.load_error(key.vae) if local is not None else EndpointsAway("the device is at fault")
        return remote.load_error(key.vae) if remote is not None else None

    def _is_ready(self, key: Hashable) -> bool:
        wanted, local = cast(BatchKey, key), self._sides.local
        if local is None or wanted.side is Side.ENDPOINT:
            return False
        if not local.is_hot(wanted.vae):
            local.begin_load(wanted.vae)
        return local.is_hot(wanted.vae)

    def _budget_of(self, key: Hashable) -> int:
        wanted = cast(BatchKey, key)
        return self._budget(wanted.vae, wanted.picture_pixels)

    def _budget(self, vae: str, picture_pixels: int | None = None) -> int:
        now = time.monotonic()
        until, room = self._rooms.get((vae, picture_pixels), (0.0, None))
        if now >= until:
            room = self._decoder.batch_pixels(vae, picture_pixels)
            if len(self._rooms) >= MOST_SIZES:
                self._rooms.clear()
            self._rooms[vae, picture_pixels] = (now + ROOM_SECONDS, room)
        limits = (self._settings.batch_pixels, room, MOST_PIXELS)
        return self._cost.batch_pixels(vae, min(limit for limit in limits if limit is not None))


def _is_of(key: Hashable, vae: str, side: Side) -> bool:
    wanted = cast(BatchKey, key)
    return wanted.vae == vae and wanted.side is side
