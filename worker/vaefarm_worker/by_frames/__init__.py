"""Decodes of videos with fewer frames at a time: the same frames one latent after the other where a class looks back in
time alone, overlapping stretches of them where it looks both ways."""

from .cached import decode, unknown_part
from .tiles import FrameTiles

__all__ = ["FrameTiles", "decode", "unknown_part"]
