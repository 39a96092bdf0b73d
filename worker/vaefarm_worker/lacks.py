"""What a worker's installation lacks that some jobs need, seen before their decode: PyAV for videos that play, a store
outside of Redis for a result that is too large for it."""

from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import Final, Literal

from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.errors import WorkerLacks
from vaefarm_shared.job import MAX_REDIS_BYTES, JobSpec

Lack = Literal["video", "store"]

#: Why a job that needs it is not decoded here, and what to do.
REASONS: Final[dict[Lack, str]] = {
    "video": (
        "a video's file needs PyAV on the worker: pip install 'vaefarm[video]', or submit with video_format='zip'"
    ),
    "store": (
        f"its result has more than the {MAX_REDIS_BYTES} bytes that Redis is given, and this worker has no store"
        " outside of it: set VAEFARM_STORE=file:///DIR, or s3://BUCKET/PREFIX, on all sides"
    ),
}


def lacks_of(blobs: BlobStore) -> frozenset[Lack]:
    """What this process lacks."""
    found: dict[Lack, bool] = {"video": find_spec("av") is None, "store": not blobs.takes(MAX_REDIS_BYTES + 1)}
    return frozenset(name for name, lacking in found.items() if lacking)


def check_lacks(spec: JobSpec, lacks: Collection[Lack]) -> None:
    """Raise WorkerLacks for the first of what a job needs and this worker lacks."""
    for need in needs(spec):
        if need in lacks:
            raise WorkerLacks(REASONS[need], need)


def needs(spec: JobSpec) -> Iterator[Lack]:
    """What not every worker has."""
    if spec.output_type == "pt" and spec.tensor_bytes > MAX_REDIS_BYTES:
        yield "store"
    if spec.output_type == "pil" and spec.num_frames is not None and spec.video_format != "zip":
        yield "video"
