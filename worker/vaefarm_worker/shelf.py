"""The shelf: which VAEs are on the device. They are loaded when they are wanted; the least recently used goes first.

A load runs in a thread of its own, into host memory first, so that batches of VAEs that are loaded already go on; one
that fails is told to those whose jobs wait, and tried again after a while.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.errors import ConfigurationError, DeviceFault, VaeUnavailable

from . import device_memory
from .device_errors import fault_of
from .fast.compiled import Size
from .vaes import DescribedVae, LoadedVae, describe_vae, read_vae

logger = logging.getLogger(__name__)

#: Seconds after which a failed load is tried again; each failure doubles them up to the most.
FIRST_BACKOFF_SECONDS: Final[float] = 30.0
MOST_BACKOFF_SECONDS: Final[float] = 600.0

#: Output pixels for whose decode there should be room beside the weights: one picture of 1024 x 1024.
DECODE_PIXELS: Final[int] = 1024 * 1024


@dataclass(slots=True)
class _Place:
    """One VAE's place."""

    described: DescribedVae
    loaded: LoadedVae | None = None
    #: Set once the load under way has ended.
    loading: threading.Event | None = None
    used_at: float = 0.0
    users: int = 0
    error: VaeUnavailable | None = None
    failures: int = 0
    retry_at: float = field(default=0.0)


class Shelf:
    """Loads, keeps and drops VAEs within `limit_bytes` of the device."""

    def __init__(
        self,
        entries: Iterable[VaeEntry],
        device: torch.device,
        limit_bytes: int | None = None,
        idle_seconds: float | None = None,
        decode_only: bool = False,
        fast: Collection[str] = (),
        sizes: Sequence[Size] = (),
    ) -> None:
        """Read every entry's config, and load those that there is room for, in order.

        Args:
            limit_bytes: Bytes of the device for weights and decodes together; all that it has unless given.
            idle_seconds: Seconds after which a VAE that nobody uses is dropped; never unless given.
            decode_only: Keep no encoders.
            fast: Switches of the fast decoders that are kept beside the plain ones; none are kept without.
            sizes: Heights and widths of pictures for which those are compiled.

        Raises:
            ConfigurationError: none of them can be served, or loaded; the first one's reason.
        """
        self._device = device
        self._limit_bytes = device_memory.total_bytes(device) if limit_bytes is None else limit_bytes
        self._idle_seconds = idle_seconds
        self._fast, self._sizes = fast, sizes
        self._places = {one.id: _Place(one) for one in _described(entries, device, decode_only)}
        #: Notified when a VAE is no longer used.
        self._lock = threading.Condition()
        self._one_load = threading.Lock()
        self._fault: DeviceFault | None = None
        #: Loads and drops so far: what a decode took beside one of them says nothing.
        self.changes = 0
        #: Told whenever a load has ended.
        self.on_change: Callable[[], None] = lambda: None
        self._load_first()

    @property
    def described(self) -> Mapping[str, DescribedVae]:
        """Every VAE that may be wanted, by id."""
        return {vae: place.described for vae, place in self._places.items()}

    @property
    def hot(self) -> list[str]:
        """The VAEs that are loaded."""
        return [vae for vae, place in self._places.items() if place.loaded is not None]

    @property
    def limit_bytes(self) -> int | None:
        """Bytes of the device for weights and decodes together; None where it does not tell and nobody set them."""
        return self._limit_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of all that is loaded."""
        return sum(self.weight_bytes_of(vae) for vae in self._places)

    def weight_bytes_of(self, vae: str) -> int:
        """Bytes of one VAE's weights; 0 for one that is not loaded."""
        loaded = self._places[vae].loaded
        return 0 if loaded is None else loaded.weight_bytes

    def error(self, vae: str) -> VaeUnavailable | None:
        """Why a VAE cannot be loaded just now; None when it is loaded, or may be tried.

        Raises:
            DeviceFault: the device failed as weights were moved to it.
        """
        if self._fault is not None:
            raise self._fault
        place = self._places[vae]
        return place.error if time.monotonic() < place.retry_at else None

    def is_hot(self, vae: str) -> bool:
        """Whether a VAE is loaded."""
        return self._places[vae].loaded is not None

    def begin_load(self, vae: str) -> None:
        """Load a VAE in a thread, unless it is loaded or that failed just now."""
        with self._lock:
            place = self._places[vae]
            if place.loaded is None and place.loading is None and self.error(vae) is None:
                place.loading = threading.Event()
                # A daemon: a download must not keep a worker from ending.
                threading.Thread(target=self._load, args=(place,), name="vaefarm-loader", daemon=True).start()

    @contextmanager
    def using(self, vae: str) -> Iterator[LoadedVae]:
        """A loaded VAE, which stays while it is used; waits for its load.

        Raises:
            VaeUnavailable: it cannot be loaded.
        """
        place = self._places[vae]
        while True:
            with self._lock:
                if place.loaded is not None:
                    place.users += 1
                    break
                self.begin_load(vae)
                loading, error = place.loading, self.error(vae)
            if error is not None:
                raise error
            if loading is not None:
                loading.wait()
        try:
            assert place.loaded is not None
            yield place.loaded
        finally:
            with self._lock:
                place.users -= 1
                place.used_at = time.monotonic()
                self._lock.notify_all()

    def make_way(self, vae: str) -> bool:
        """Drop every other VAE that nobody uses, for a picture that found no room; whether there was any."""
        with self._lock:
            others = [one for one in self._places.values() if one.loaded is not None and one.users == 0]
            for place in others:
                if place.described.id != vae:
                    self._drop(place, f"a picture of VAE {vae} found no room")
        device_memory.empty_cache(self._device)
        return any(place.described.id != vae for place in others)

    def refuse(self, vae: str, reason: str) -> VaeUnavailable:
        """Drop a VAE that decodes no picture, as if its load had failed; the error for its jobs."""
        error = VaeUnavailable(reason)
        with self._lock:
            place = self._places[vae]
            self._drop(place, reason)
            self._rest(place, error)
        return error

    def drop_idle(self) -> None:
        """Drop what nobody has used for `idle_seconds`."""
        if self._idle_seconds is None:
            return
        with self._lock:
            for place in self._places.values():
                if place.users == 0 and time.monotonic() >= place.used_at + self._idle_seconds:
                    self._drop(place, f"unused for {self._idle_seconds:g} s")
        device_memory.empty_cache(self._device)

    def _load_first(self) -> None:
        """Load in order while there is room, so that a worker that serves is ready."""
        for vae, place in self._places.items():
            self._load(place, may_drop=False)
            if place.error is not None:
                logger.error("%s; it is tried again when a job wants it", place.error)
            elif place.loaded is None:
                logger.info(
                    "VAE %s and those after it are loaded when a job wants them: no room beside the others", vae
                )
                break
        errors = [place.error for place in self._places.values() if place.error is not None]
        if errors and not self.hot:
            raise ConfigurationError(str(errors[0])) from errors[0]

    def _load(self, place: _Place, may_drop: bool = True) -> None:
        with self._one_load:
            error = self._loaded_or_error(place, may_drop)
        with self._lock:
            self.changes += 1
            place.error = None
            if error is not None:
                self._rest(place, error)
            loading, place.loading = place.loading, None
        if loading is not None:
            loading.set()
        self.on_change()

    def _loaded_or_error(self, place: _Place, may_drop: bool) -> VaeUnavailable | None:
        described = place.described
        try:
            read = read_vae(described, self._fast, self._sizes)
            if self._make_room(described, read.weight_bytes, may_drop):
                # Outside of the lock: moving the weights takes a while, and nobody else moves any.
                loaded = read.moved_to(self._device)
                with self._lock:
                    place.loaded, place.used_at, place.failures = loaded, time.monotonic(), 0
                logger.info("loaded VAE %s (%.0f MB)", described.id, loaded.weight_bytes / 1e6)
            return None
        except Exception as raised:
            found = fault_of(raised, str(self._device), f"load VAE {described.id}")
            if isinstance(found, DeviceFault):
                self._fault = found
            reason = found or raised
            return VaeUnavailable(str(reason) or f"VAE {described.id!r}: {type(raised).__name__}")

    def _rest(self, place: _Place, error: VaeUnavailable) -> None:
        """Try no load for a while, which each failure doubles."""
        seconds = min(FIRST_BACKOFF_SECONDS * 2 ** min(place.failures, 10), MOST_BACKOFF_SECONDS)
        place.error, place.failures, place.retry_at = error, place.failures + 1, time.monotonic() + seconds
        logger.warning("%s; once more in %.0f s", error, seconds)

    def _make_room(self, described: DescribedVae, weight_bytes: int, may_drop: bool) -> bool:
        """Drop others, the least recently used first, until the weights fit with room for a decode.

        Raises:
            ConfigurationError: they never will.
        """
        if self._limit_bytes is None:
            return True
        if weight_bytes > self._limit_bytes:
            raise ConfigurationError(
                f"VAE {described.id!r} has {weight_bytes} bytes of weights, and the device's limit is"
                f" {self._limit_bytes}: raise --vram-limit, or leave it out of --vaes"
            )
        wanted = weight_bytes + described.cost.planned_bytes * DECODE_PIXELS
        with self._lock:
            if not may_drop:
                return not self.hot or self.weight_bytes + wanted <= self._limit_bytes
            while self.hot and self.weight_bytes + wanted > self._limit_bytes:
                unused = [one for one in self._places.values() if one.loaded is not None and one.users == 0]
                if unused:
                    self._drop(min(unused, key=lambda one: one.used_at), f"VAE {described.id} is wanted")
                else:
                    # What is in use keeps its room until its batch is over.
                    self._lock.wait()
        device_memory.empty_cache(self._device)
        return True

    def _drop(self, place: _Place, why: str) -> None:
        if place.loaded is not None:
            place.loaded = None
            self.changes += 1
            logger.info("dropped VAE %s: %s", place.described.id, why)


def _described(entries: Iterable[VaeEntry], device: torch.device, decode_only: bool) -> list[DescribedVae]:
    """Those of the entries whose configs can be read and served. Raises ConfigurationError where there is none."""
    described, errors = [], []
    for entry in entries:
        try:
            described.append(describe_vae(entry, device, decode_only))
        except ConfigurationError as error:
            errors.append(error)
    if errors and not described:
        raise errors[0]
    for one in errors:
        logger.error("%s; this worker serves the others without it", one)
    return described
