"""Frames of videos: how many a VAE makes of so many latent frames, which goes by the layout that its pipelines use."""

from typing import Final

from .job import Layout

#: Layouts in which the frames come before the channels.
FRAMES_FIRST: Final[frozenset[Layout]] = frozenset({"frames_first", "padded"})


def frames_made(layout: Layout, latent_frames: int, temporal_scale: int) -> int:
    """Frames of a video that is decoded of so many latent frames.

    The first is one frame, each other `temporal_scale`. CogVideoX decodes them in pairs: of an even number each is
    `temporal_scale` frames, the first too.
    """
    if layout in FRAMES_FIRST and latent_frames % 2 == 0:
        return latent_frames * temporal_scale
    return (latent_frames - 1) * temporal_scale + 1


def latent_frames(num_frames: int, temporal_scale: int) -> int:
    """Latent frames that a pipeline makes where it is asked for so many frames."""
    return (num_frames - 1) // temporal_scale + 1


def padded(frames: int) -> int:
    """Latent frames in the layout 'padded': CogVideoX 1.5 makes their number even, at their front."""
    return frames + frames % 2


def describe_frames(layout: Layout, temporal_scale: int) -> str:
    """The latent frames of a layout, as text."""
    if temporal_scale == 1:
        return "frames"
    if layout == "frames_first":
        return f"frames/{temporal_scale} rounded up"
    return f"(frames-1)/{temporal_scale}+1"
