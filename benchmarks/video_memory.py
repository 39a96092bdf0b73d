"""What of a long clip stands in the host's memory while its file is written."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from math import prod
from typing import Final, get_args

from vaefarm_shared.job import VideoFormat
from vaefarm_worker.clips import CHUNK_BYTES

from . import clip_writer
from .clip_writer import MEBI, SHAPE, Written
from .farm_under_test import Options, python_path
from .report import Figure, Row

#: Seconds that a file may take.
WRITE_SECONDS: Final = 600.0


def video_memory(_options: Options) -> Figure:
    """Each format once, in a process of its own."""
    made = {video_format: written(video_format) for video_format in get_args(VideoFormat)}
    frames, height, width, _ = SHAPE
    return Figure(
        title=f"a host that writes {frames} frames of {height} x {width}, {prod(SHAPE) // MEBI} MiB of pixels",
        header=("file", "frames in memory, MiB", "chunks at a time", "peak beyond the start, MiB", "file, MiB", "s"),
        rows=tuple(row(name, one) for name, one in made.items()),
        raw={name: asdict(one) for name, one in made.items()},
        note=f"A chunk is {CHUNK_BYTES // MEBI} MiB. The peak is the process': frames, file and encoder.",
    )


def row(name: str, one: Written) -> Row:
    """One format."""
    sizes = (one.frame_bytes, one.resident_bytes, one.file_bytes)
    frames, peak, file = (f"{size / MEBI:.1f}" for size in sizes)
    return name, frames, str(one.chunks), peak, file, f"{one.seconds:.1f}"


def written(video_format: str) -> Written:
    """What a process says that writes such a file."""
    done = subprocess.run(
        [sys.executable, "-m", clip_writer.__name__, video_format],
        env=os.environ | {"PYTHONPATH": python_path()},
        stdout=subprocess.PIPE,
        timeout=WRITE_SECONDS,
        check=True,
    )
    return Written(**json.loads(done.stdout))
