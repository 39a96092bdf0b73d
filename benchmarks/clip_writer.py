"""A process that writes one clip's file as a worker does, and says what of it stood in its memory."""

import gc
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final
from weakref import WeakSet

import numpy as np
from PIL import Image

from vaefarm_producer.local.processes import worker_folder
from vaefarm_shared.job import JobSpec
from vaefarm_worker.clips import Clip, Frames
from vaefarm_worker.video_files import encode_clip

from .resident import peak_bytes, reset_peak, resident_bytes

#: (frames, height, width, channels) of the clip.
SHAPE: Final = (129, 720, 1280, 3)

#: Pixels that the picture moves from frame to frame.
STEP: Final = 4

MEBI: Final = 1024**2


class Held(np.ndarray[Any, np.dtype[np.uint8]]):
    """Frames that can be watched: an array has no place for weak references."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Written:
    """What one file took."""

    seconds: float
    file_bytes: int
    #: Most chunks, and bytes of their frames, that lived at a time.
    chunks: int
    frame_bytes: int
    #: Resident memory at most beyond what there was before, file and encoder included.
    resident_bytes: int


def main(video_format: str) -> None:
    """Write a small clip first, so that what an encoder loads once does not count."""
    written(video_format, (2, 64, 64, 3))
    print(json.dumps(asdict(written(video_format, SHAPE))))


def written(video_format: str, shape: tuple[int, int, int, int]) -> Written:
    """Write a picture that moves, whose frames are made as they are read: a device's stand nowhere in the host."""
    frames, height, width, _ = shape
    picture = np.asarray(photograph().resize((width, height), Image.Resampling.LANCZOS))
    held, most, most_bytes = WeakSet[Held](), 0, 0

    def read(start: int, stop: int) -> Frames:
        nonlocal most, most_bytes
        chunk = np.empty((stop - start, height, width, 3), np.uint8).view(Held)
        for place in range(start, stop):
            chunk[place - start] = np.roll(picture, STEP * place, 1)
        held.add(chunk)
        most, most_bytes = max(most, len(held)), max(most_bytes, sum(one.nbytes for one in held))
        return chunk

    gc.collect()
    reset_peak()
    before, began = resident_bytes(), time.monotonic()
    file = encode_clip(Clip(shape, read), spec_of(video_format, frames, height, width))
    return Written(time.monotonic() - began, len(file), most, most_bytes, peak_bytes() - before)


def photograph() -> Image.Image:
    """One of the demo's."""
    return Image.open(worker_folder("demo") / "photographs" / "cat_portrait.webp").convert("RGB")


def spec_of(video_format: str, frames: int, height: int, width: int) -> JobSpec:
    """A job of Wan's."""
    fixed = {"id": "clip", "vae": "wan", "dtype": "float32", "layout": "video", "count": 1, "request_hash": ""}
    sizes = {"num_frames": frames, "height": height, "width": width, "fps": 16, "video_format": video_format}
    return JobSpec.model_validate({**fixed, **sizes, "shape": (1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)})


if __name__ == "__main__":
    main(sys.argv[1])
