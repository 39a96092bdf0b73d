"""Overlapping stretches of frames, decoded one by one and blended where they overlap: other frames than of a whole."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vaefarm_shared.errors import OutOfMemory


@dataclass(frozen=True, slots=True)
class FrameTiles:
    """How long stretches are."""

    #: Latent frames that are decoded at a time.
    latents: int
    #: Those of them that the stretch before had as well.
    overlap: int

    def decode(
        self, decode: Callable[[torch.Tensor], torch.Tensor], grid: torch.Tensor, temporal_scale: int
    ) -> torch.Tensor:
        """(n, c, t, h, w) -> (n, 3, (t - 1) * temporal_scale + 1, height, width).

        A stretch of t latents makes (t - 1) * temporal_scale + 1 frames, the first of which is its first latent's last:
        where the classes of diffusers lay LTX-Video's one frame later, and drop its last, they are laid here in place.

        Args:
            decode: Of a stretch.

        Raises:
            OutOfMemory: the video is no longer than one stretch.
        """
        held, made, start = grid.shape[2], None, 0
        if held <= self.latents:
            raise OutOfMemory(f"no room, and {held} latent frames are decoded at a time already")
        while start + self.overlap < held:
            part = decode(grid[:, :, start : start + self.latents])
            if made is None:
                made = part.new_empty((*part.shape[:2], (held - 1) * temporal_scale + 1, *part.shape[3:]))
            shared = 0 if start == 0 else (self.overlap - 1) * temporal_scale + 1
            _lay(made, part, start * temporal_scale, shared)
            start += self.latents - self.overlap
        assert made is not None
        return made


def _lay(made: torch.Tensor, part: torch.Tensor, start: int, shared: int) -> None:
    """Write a stretch's frames to their places, of which the first `shared` have another's: those fade into its own."""
    stop = start + shared
    if shared:
        weights = torch.arange(shared, device=part.device).div(shared).to(part.dtype)[:, None, None]
        made[:, :, start:stop].lerp_(part[:, :, :shared], weights)
    made[:, :, stop : start + part.shape[2]] = part[:, :, shared:]
