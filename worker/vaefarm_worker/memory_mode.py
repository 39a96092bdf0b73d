"""How much memory a decode may take for its picture, from the plainest way to the most sparing one."""

from collections.abc import Iterable
from enum import StrEnum


class MemoryMode(StrEnum):
    """A way of decoding; its value is the name among a record's switches, where it is one."""

    #: As `vae.decode` does it.
    WHOLE = "whole"
    #: In strips of rows, with about half of a whole decode's peak: the same picture, but for the order of sums.
    HALF = "strips-half"
    #: In strips, with less than a third: what would be stored at the picture's own size is computed again instead.
    THIRD = "strips-third"
    #: In diffusers' overlapping tiles: another picture, with seams.
    TILED = "tiling"

    @property
    def switches(self) -> tuple[str, ...]:
        """What a record says of it."""
        return () if self is MemoryMode.WHOLE else (self.value,)

    @property
    def is_in_strips(self) -> bool:
        """Whether a job's pictures are decoded one by one in strips."""
        return self in (MemoryMode.HALF, MemoryMode.THIRD)

    @classmethod
    def among(cls, switches: Iterable[str]) -> "MemoryMode":
        """The one that a record's switches name."""
        names = set(switches)
        return next((mode for mode in cls if mode.value in names), cls.WHOLE)
