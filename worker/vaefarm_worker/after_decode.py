"""What an operator installed to check or change pictures after their decode: entry points, named in the settings.

A pipeline's own safety checker and watermark never see what is decoded here. An entry point of the group
`vaefarm.after_decode` takes their place; a job cannot name one, since nothing found in Redis is ever imported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vaefarm_shared.errors import ConfigurationError, DecodeError, RefusedPicture
from vaefarm_shared.job import JobSpec
from vaefarm_shared.unit import to_pixels

from .decoder import Decoded, Pixels
from .option_lists import split_names

#: The group of the entry points.
GROUP: Final[str] = "vaefarm.after_decode"

#: (count, height, width, 3 or 4) uint8 pixels, of a video some of its frames, and the job -> pixels of the same shape,
#: the same or changed ones. Raises RefusedPicture for a job that must get none.
AfterDecode = Callable[[Pixels, JobSpec], Pixels]


@dataclass(frozen=True, slots=True)
class Step:
    """One entry point, loaded."""

    name: str
    run: AfterDecode
    #: Whether it checks pictures for safety: it says so by an attribute `safety_check` that is true.
    is_safety_check: bool


@dataclass(frozen=True, slots=True)
class AfterDecodes:
    """The steps that every picture of this worker goes through, in their order."""

    steps: Sequence[Step] = ()

    @classmethod
    def load(cls, names: str | None) -> "AfterDecodes":
        """Load entry points by name, separated by commas.

        Raises:
            ConfigurationError: none of that name is installed, or it cannot be imported.
        """
        wanted = split_names(names)
        installed = {point.name: point for point in entry_points(group=GROUP)} if wanted else {}
        return cls(tuple(_load(name, installed) for name in wanted))

    @property
    def names(self) -> tuple[str, ...]:
        """Every step's name."""
        return tuple(step.name for step in self.steps)

    @property
    def check_safety(self) -> bool:
        """Whether one of the steps checks pictures for safety."""
        return any(step.is_safety_check for step in self.steps)

    def apply(self, decoded: Decoded, spec: JobSpec) -> Decoded:
        """Pictures after every step. Of a raw tensor the steps see the pixels, and what they change is left aside.

        Raises:
            RefusedPicture: a step lets no picture of this job through; or a safety check changed the pixels of a raw
                tensor, which would go out as it was.
            DecodeError: a step failed, or gave no pixels of the pictures' shape, or the decoder made files already.
        """
        if not self.steps:
            return decoded
        if decoded.clips:
            # As frames leave the device: a step sees a few at a time.
            steps = [partial(_run, step, spec=spec) for step in self.steps]
            return replace(decoded, clips=tuple(clip.through(*steps) for clip in decoded.clips))
        raw = decoded.tensor
        pixels = decoded.pixels if raw is None else to_pixels(frames_of(raw.array))
        if pixels is None:
            raise DecodeError(f"the decoder made files, which {', '.join(self.names)} cannot see; expected pixels")
        for step in self.steps:
            before = pixels.copy() if raw is not None and step.is_safety_check else None
            pixels = _run(step, pixels, spec)
            if before is not None and not np.array_equal(before, pixels):
                raise RefusedPicture(
                    f"{step.name} changed what the picture shows, which a raw tensor would not; submit the job with"
                    " output_type='pil'"
                )
        return decoded if raw is not None else replace(decoded, pixels=pixels)


def frames_of(raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n, c, height, width) as it is; of videos (n, c, frames, height, width) -> (n * frames, c, height, width)."""
    return raw if raw.ndim == 4 else raw.swapaxes(1, 2).reshape(-1, raw.shape[1], *raw.shape[3:])


def _run(step: Step, pixels: Pixels, spec: JobSpec) -> Pixels:
    try:
        changed = step.run(pixels, spec)
    except RefusedPicture:
        raise
    except Exception as error:
        raise DecodeError(f"{step.name} failed: {type(error).__name__}: {error}") from error
    if getattr(changed, "shape", None) != pixels.shape or changed.dtype != pixels.dtype:
        raise DecodeError(f"{step.name} gave no uint8 pixels of shape {pixels.shape}, as it got")
    return changed


def _load(name: str, installed: dict[str, EntryPoint]) -> Step:
    if name not in installed:
        known = ", ".join(sorted(installed)) or "none"
        raise ConfigurationError(
            f"VAEFARM_AFTER_DECODE names {name!r}; installed in the group {GROUP!r}: {known}; install its package"
        )
    try:
        run = installed[name].load()
    except Exception as error:
        raise ConfigurationError(f"VAEFARM_AFTER_DECODE: {name!r} cannot be imported: {error}") from error
    if not callable(run):
        raise ConfigurationError(f"VAEFARM_AFTER_DECODE: {name!r} is no function of pixels and job")
    return Step(name, run, bool(getattr(run, "safety_check", False)))
