"""How much memory a decode may take for its picture, from the plainest way to the most sparing one."""

from collections.abc import Iterable
from enum import StrEnum


class MemoryMode(StrEnum):
    """A way of decoding; its value is the name among a record's switches, where it is one."""

    #: As `vae.decode` does it.
    WHOLE = "whole"
    #: A video's latent frames one after the other: the same frames, but for the order of sums.
    FRAME_BY_FRAME = "frame-by-frame"
    #: In strips of rows, with about half of a whole decode's peak: the same picture, but for the order of sums.
    HALF = "strips-half"
    #: In strips, with less than a third: what would be stored at the picture's own size is computed again instead.
    THIRD = "strips-third"
    #: A video's frames in overlapping stretches: other frames.
    FRAME_TILES = "frame-tiles"
    #: In diffusers' overlapping tiles: another picture, with seams.
    TILED = "tiling"

    @property
    def switches(self) -> tuple[str, ...]:
        """What a record says of it."""
        return () if self is MemoryMode.WHOLE else (self.value,)

    @property
    def is_one_by_one(self) -> bool:
        """Whether a job's pictures, or videos, are decoded one by one, by a walk of ours through the plain decoder."""
        return self in (MemoryMode.FRAME_BY_FRAME, MemoryMode.HALF, MemoryMode.THIRD)

    @property
    def goes_by_frames(self) -> bool:
        """Whether memory goes by the pixels of one frame, however long a video is."""
        return self is MemoryMode.FRAME_BY_FRAME

    @property
    def is_of_diffusers(self) -> bool:
        """Whether it is a switch of diffusers' classes."""
        return self is MemoryMode.TILED

    @property
    def needs_leave(self) -> bool:
        """Whether it changes the picture, so that the job or the operator must allow it."""
        return self in (MemoryMode.FRAME_TILES, MemoryMode.TILED)

    @classmethod
    def among(cls, switches: Iterable[str]) -> "MemoryMode":
        """The one that a record's switches name."""
        names = set(switches)
        return next((mode for mode in cls if mode.value in names), cls.WHOLE)
