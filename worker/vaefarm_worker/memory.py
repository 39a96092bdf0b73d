"""How many output pixels a device has room for at a time, by VAE: begins with a plan and learns from each decode."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from vaefarm_shared.catalogue import MAX_FRAMES

from .memory_mode import MemoryMode

#: Share of the free memory that a batch may fill; the rest is the allocator's slack.
SHARE: Final[float] = 0.9

#: Pixels of a batch below which fixed costs, such as a kernel's workspace, hide what a pixel costs.
LEARNING_PIXELS: Final[int] = 512 * 512

#: Part of the way that an estimate goes down towards a lower peak; towards a higher one it goes all the way.
EASING: Final[float] = 0.1

#: Elements of the largest tensor that kernels with 32-bit indices reach.
MAX_ELEMENTS: Final[int] = 2**31

#: More pixels than any picture has.
NO_LIMIT: Final[int] = 2**62


@dataclass(frozen=True, slots=True)
class PixelCost:
    """Memory that an output pixel takes at the peak of a decode."""

    #: What a batch is planned with.
    planned_bytes: float
    #: What it takes at least: a picture that would not fit even so is not tried.
    least_bytes: float
    #: Channels of the widest activation that has the picture's own height and width.
    widest_channels: int
    #: What it takes at least in the other modes in which the VAE may be decoded, the plainest first; where memory goes
    #: by frames, a pixel of one frame.
    sparing_bytes: Mapping[MemoryMode, float] = field(default_factory=dict)


class MemoryEstimate:
    """Pixels that fit into bytes. What it learned holds as long as the process."""

    def __init__(self, costs: Mapping[str, PixelCost]) -> None:
        """`costs`: the plan for each VAE, by id."""
        self._costs = dict(costs)
        self._bytes = {vae: cost.planned_bytes for vae, cost in costs.items()}
        self._seen = dict.fromkeys(costs, 0.0)
        self._ceilings: dict[str, dict[int, int]] = {vae: {} for vae in costs}
        #: By VAE and mode, pixels of the smallest picture that alone found no room.
        self._too_large: dict[tuple[str, MemoryMode], int] = {}

    def bytes_per_pixel(self, vae: str) -> float:
        """What a pixel of a batch is reckoned to take."""
        return self._bytes[vae]

    def note_peak(self, vae: str, pixels: int, peak_bytes: int) -> None:
        """Learn from a decode of `pixels` in all that took `peak_bytes` beyond the weights."""
        if pixels < LEARNING_PIXELS:
            return
        seen = peak_bytes / pixels
        self._seen[vae] = max(self._seen[vae], seen)
        eased = self._bytes[vae] + EASING * (seen - self._bytes[vae])
        self._bytes[vae] = max(self._seen[vae], eased)

    def note_out_of_memory(
        self, vae: str, pixels: int, picture_pixels: int, mode: MemoryMode = MemoryMode.WHOLE
    ) -> None:
        """Remember that a batch of `pixels` in all, of pictures of `picture_pixels` each, found no room.

        Half of it becomes the ceiling for pictures of that size and larger ones, since a pixel of a larger picture
        takes no less: attention grows with the square. Below a single picture there is nothing to halve. What a batch
        took in another mode than WHOLE sets no ceiling for batches.
        """
        if pixels < 2 * picture_pixels:
            smallest = self._too_large.get((vae, mode), picture_pixels)
            self._too_large[vae, mode] = min(picture_pixels, smallest)
        if mode is not MemoryMode.WHOLE:
            return
        ceiling = pixels // 2 if pixels >= 2 * picture_pixels else picture_pixels - 1
        known = self._ceilings[vae]
        # A new dict: another thread may be reading the old one.
        self._ceilings[vae] = known | {picture_pixels: min(ceiling, known.get(picture_pixels, ceiling))}

    def batch_pixels(self, vae: str, free_bytes: int, picture_pixels: int | None = None) -> int:
        """Pixels that a batch may have when `free_bytes` are free.

        Args:
            picture_pixels: Pixels of each of its pictures; a ceiling that was set by larger ones is then left out.
        """
        ceilings = self._ceilings[vae].items()
        binding = [top for size, top in ceilings if picture_pixels is None or size <= picture_pixels]
        room = int(SHARE * max(0, free_bytes) / self._bytes[vae])
        return min(room, MAX_ELEMENTS // self._costs[vae].widest_channels, *binding)

    def modes(self, vae: str) -> tuple[MemoryMode, ...]:
        """The modes in which a VAE may be decoded, the plainest first, tiles aside."""
        return (MemoryMode.WHOLE, *self._costs[vae].sparing_bytes)

    def max_pixels(self, vae: str, total_bytes: int) -> int:
        """Pixels of the largest picture worth a try alone in any mode, where a device has `total_bytes` beside the
        weights.

        By the least that a pixel takes: a picture in doubt is tried, and what runs out of memory is remembered, while
        one that is refused would wait for nobody.
        """
        return max(
            self.most_pixels(vae, total_bytes, mode) * (MAX_FRAMES if mode.goes_by_frames else 1)
            for mode in self.modes(vae)
        )

    def most_pixels(self, vae: str, total_bytes: int | None, mode: MemoryMode) -> int:
        """The same in one mode, pixels of a frame where memory goes by those. Without `total_bytes`, by what found no
        room alone."""
        most = self._too_large.get((vae, mode), NO_LIMIT + 1) - 1
        if total_bytes is None:
            return most
        cost = self._costs[vae]
        whole_bytes = max(cost.least_bytes, self._seen[vae])
        least_bytes = whole_bytes if mode is MemoryMode.WHOLE else cost.sparing_bytes[mode]
        return min(int(SHARE * max(0, total_bytes) / least_bytes), most)
