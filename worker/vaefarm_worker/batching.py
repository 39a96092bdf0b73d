"""Which waiting jobs are decoded together, and which first: pure policy, without Redis and without torch."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from vaefarm_shared.job import JobSpec

from .sharing import Side

T = TypeVar("T")

#: More than jobs ever come.
FIRST: Final[int] = 2**62

#: Jobs of the largest batch, however small their pictures are.
MAX_BATCH_JOBS: Final[int] = 64


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What jobs that are decoded together have in common."""

    vae: str
    #: The latent's shape without its first dimension.
    shape: tuple[int, ...]
    dtype: str
    #: Pictures' height and width, as decoded and as wanted: packed latents of one shape hold several.
    sizes: tuple[int, int, int, int]
    picture_pixels: int
    layout: str
    normalised: bool
    factors: tuple[float | None, float | None]
    #: Timestep, frames at a time and seed of a decode that is told them.
    decode_arguments: tuple[float | int | None, ...]
    task: str
    output_type: str
    #: Set for a job that shares the device with no other.
    alone: str = ""
    side: Side = Side.DEVICE


def batch_key(spec: JobSpec, alone: bool = False, side: Side = Side.DEVICE) -> BatchKey:
    """The key of a job. One that must be reproducible, has noise mixed in, or may have ended a worker, has a key of its
    own."""
    single = spec.id if alone or spec.reproducible or spec.noise_scale else ""
    sizes = (spec.height, spec.width, *spec.picture_size)
    return BatchKey(
        spec.vae,
        spec.shape[1:],
        spec.dtype,
        sizes,
        spec.picture_pixels,
        spec.layout,
        spec.normalised,
        (spec.scaling_factor, spec.shift_factor),
        (spec.decode_timestep, spec.decode_chunk_size, spec.seed if spec.task == "decode" else None),
        spec.task,
        spec.output_type,
        single,
        side,
    )


@dataclass(slots=True)
class _Group(Generic[T]):
    entries: list[tuple[int, int, float, T]] = field(default_factory=list)
    pixels: int = 0


class Batcher(Generic[T]):
    """Jobs that wait for the device, in groups of one key, in the order in which they came."""

    def __init__(self, is_ready: Callable[[Hashable], bool] = lambda _: True) -> None:
        """`is_ready`: whether jobs of a key could be decoded now; others' turn passes to the next."""
        self._is_ready = is_ready
        self._groups: dict[Hashable, _Group[T]] = {}
        self._order = 0
        self.pixels = 0
        self.jobs = 0

    def add(self, key: Hashable, pixels: int, one: T, now: float, *, is_first: bool = False) -> None:
        """Put a job at the end of its group.

        Args:
            pixels: Of all its pictures.
            now: Any clock's seconds.
            is_first: Whether it came before all that are not, as far as its group's turn goes.
        """
        group = self._groups.setdefault(key, _Group())
        group.entries.append((self._order - FIRST * is_first, pixels, now, one))
        group.pixels += pixels
        self._order += 1
        self.pixels += pixels
        self.jobs += 1

    def next_key(self) -> Hashable | None:
        """The key whose turn it is: that of the job which came first, so that none starves behind a popular shape."""
        ready = [key for key in self._groups if self._is_ready(key)]
        return min(ready, key=lambda key: self._groups[key].entries[0][0], default=None)

    def waiting(self) -> list[Hashable]:
        """The keys of which jobs wait."""
        return list(self._groups)

    def ready(self) -> tuple[int, int]:
        """Jobs that could be decoded now, and their pixels."""
        return self.count(self._is_ready)

    def remove(self, key: Hashable) -> list[T]:
        """All jobs of a key, in their order; none of them waits afterwards."""
        entries = self._groups.pop(key).entries
        self._forget(entries)
        return [one for *_, one in entries]

    def take(self, budget: Callable[[Hashable], int], now: float, window_seconds: float = 0.0) -> list[T]:
        """The next batch: jobs of one key up to `budget` pixels, one at least; empty while it should wait.

        A batch that could hold more waits until its first job has waited for `window_seconds`.
        """
        key = self.next_key()
        if key is None:
            return []
        group, most = self._groups[key], budget(key)
        count = _fitting(group.entries, most)
        is_full = count < len(group.entries) or count == MAX_BATCH_JOBS or group.pixels >= most
        if not is_full and now < group.entries[0][2] + window_seconds:
            return []
        taken, group.entries = group.entries[:count], group.entries[count:]
        group.pixels -= self._forget(taken)
        if not group.entries:
            del self._groups[key]
        return [one for *_, one in taken]

    def pick(self, accepts: Callable[[Hashable], bool], most: int, *, newest: bool = False) -> list[T]:
        """Up to `most` jobs of keys that `accepts` likes, whatever is ready: the oldest, or the newest."""
        found = [(entry, key) for key, group in self._groups.items() if accepts(key) for entry in group.entries]
        found.sort(key=lambda one: one[0][0], reverse=newest)
        for entry, key in found[:most]:
            group = self._groups[key]
            group.entries.remove(entry)
            group.pixels -= self._forget([entry])
            if not group.entries:
                del self._groups[key]
        return [entry[3] for entry, _ in found[:most]]

    def count(self, accepts: Callable[[Hashable], bool]) -> tuple[int, int]:
        """Jobs of keys that `accepts` likes, and their pixels."""
        groups = [group for key, group in self._groups.items() if accepts(key)]
        return sum(len(group.entries) for group in groups), sum(group.pixels for group in groups)

    def pixels_by_key(self) -> list[tuple[Hashable, int]]:
        """The keys of which jobs wait, and their jobs' pixels."""
        return [(key, group.pixels) for key, group in self._groups.items()]

    def next_jobs(self, budget: Callable[[Hashable], int]) -> int:
        """How many jobs the next batch would have now."""
        key = self.next_key()
        return 0 if key is None else _fitting(self._groups[key].entries, budget(key))

    def due(self, window_seconds: float) -> float | None:
        """When the next batch stops waiting for company, by the clock of `add`; None when no job waits."""
        key = self.next_key()
        return None if key is None else self._groups[key].entries[0][2] + window_seconds

    def clear(self) -> list[T]:
        """Every job that waits, in the order in which they came; none waits afterwards."""
        entries = sorted((entry for group in self._groups.values() for entry in group.entries), key=lambda one: one[0])
        self._groups.clear()
        self._forget(entries)
        return [one for *_, one in entries]

    def _forget(self, entries: list[tuple[int, int, float, T]]) -> int:
        pixels = sum(entry[1] for entry in entries)
        self.pixels -= pixels
        self.jobs -= len(entries)
        return pixels


def _fitting(entries: list[tuple[int, int, float, T]], most_pixels: int) -> int:
    pixels = 0
    for count, entry in enumerate(entries[:MAX_BATCH_JOBS]):
        pixels += entry[1]
        if count and pixels > most_pixels:
            return count
    return min(len(entries), MAX_BATCH_JOBS)
