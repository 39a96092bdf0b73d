"""Loaded jobs that wait for the device: where the intake's thread and the binder's meet."""

import time
from collections.abc import Hashable, Sequence
from threading import Condition
from typing import Final, cast

from vaefarm_shared.errors import VaeUnavailable

from .batching import MAX_BATCH_JOBS, Batcher, BatchKey, batch_key
from .claiming import FIRST_JOBS
from .loading import Loaded
from .station import Station

#: Output pixels of a batch where neither the operator nor the decoder names a limit: 64 pictures of 1024 x 1024.
MOST_PIXELS: Final[int] = 64 * 1024 * 1024

#: Batches whose pixels may wait: one that is next, and one that fills meanwhile.
WAITING_BATCHES: Final[int] = 2

#: Seconds for which the device's free memory is believed, and for how many sizes of picture.
ROOM_SECONDS: Final[float] = 0.25
MOST_SIZES: Final[int] = 1000


class Pool:
    """Jobs by batch key, bounded by what two batches hold. `changed` is notified whenever anything about it does."""

    def __init__(self, station: Station) -> None:
        self._settings = station.settings
        self._decoder = station.decoder
        self._cost = station.cost
        self._rooms: dict[tuple[str, int | None], tuple[float, int | None]] = {}
        self._batcher: Batcher[Loaded] = Batcher(self._is_ready)
        self.changed = Condition()

    @property
    def jobs(self) -> int:
        """Jobs that wait."""
        return self._batcher.jobs

    def room(self) -> tuple[int, int]:
        """Jobs and pixels that may still be claimed; (0, 0) when there is no room.

        Jobs that wait for their VAE's load take none of it: those of the others go on.
        """
        with self.changed:
            held, held_pixels = self._batcher.ready()
        if not any(self._cost.is_known(vae) for vae in self._decoder.vaes):
            jobs = FIRST_JOBS - held
        else:
            jobs = WAITING_BATCHES * MAX_BATCH_JOBS - held
        most = WAITING_BATCHES * max(self._budget(vae) for vae in self._decoder.vaes)
        pixels = most - held_pixels
        # One job may always wait, however large it is.
        if jobs <= 0 or (pixels <= 0 and held):
            return 0, 0
        return jobs, max(1, pixels)

    def notify(self) -> None:
        """Wake whoever waits: something outside of the pool has changed that decides what is bound."""
        with self.changed:
            self.changed.notify_all()

    def wait_for_room(self, seconds: float) -> None:
        """Return once there may be room, after `seconds` at the latest."""
        with self.changed:
            self.changed.wait_for(lambda: self.room()[0] > 0, seconds)

    def put(self, jobs: Sequence[Loaded]) -> None:
        """Let jobs wait for the device."""
        now = time.monotonic()
        with self.changed:
            for one in jobs:
                self._batcher.add(batch_key(one.spec, one.alone), one.spec.pixels, one, now)
            self.changed.notify_all()

    def take(self) -> list[Loaded]:
        """The next batch, or nothing while none is to be bound. Call it with `changed` held."""
        taken = self._batcher.take(self._budget_of, time.monotonic(), self._settings.batch_window)
        if taken:
            self.changed.notify_all()
        return taken

    def take_unloadable(self) -> list[tuple[Loaded, VaeUnavailable]]:
        """The jobs whose VAE cannot be loaded just now, and why. Call it with `changed` held."""
        found: list[tuple[Loaded, VaeUnavailable]] = []
        for key in self._batcher.waiting():
            error = self._decoder.load_error(cast(BatchKey, key).vae)
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
        """Whether the next batch would have one job. Call it with `changed` held."""
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

    def _is_ready(self, key: Hashable) -> bool:
        vae = cast(BatchKey, key).vae
        if not self._decoder.is_hot(vae):
            self._decoder.begin_load(vae)
        return self._decoder.is_hot(vae)

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
