"""Direct links: what lies in S3 may come from there, and pass the gateway by. Who may have one is decided elsewhere."""

import logging
from typing import Final

from vaefarm_shared.errors import FarmError
from vaefarm_shared.job import VideoFormat
from vaefarm_shared.records import BlobRecord, ImageRecord, VideoRecord
from vaefarm_shared.s3_blobs import S3Blobs
from vaefarm_shared.store_url import read_store_url

from .models import SAFETENSORS

logger = logging.getLogger(__name__)

#: What the reference of a blob in S3 begins with.
IN_S3: Final[str] = f"{S3Blobs.scheme}:"


#: The type of each form of video.
VIDEO_TYPES: Final[dict[VideoFormat, str]] = {"mp4": "video/mp4", "webp": "image/webp", "zip": "application/zip"}


class DirectLinks:
    """Signs links to a farm's bucket, where it has one; nothing is asked of the store for that."""

    def __init__(self, store: str, seconds: int, endpoint_url: str | None) -> None:
        """`seconds`: for how long a link is good. `endpoint_url`: the store's address as clients see it; the one that
        botocore finds unless given. Raises InvalidStore."""
        place = read_store_url(store)
        self._blobs = S3Blobs(place.bucket, place.prefix, endpoint_url) if place.bucket else None
        self._seconds = seconds

    def has(self, one: BlobRecord) -> bool:
        """Whether there is a link to it."""
        return self._blobs is not None and one.blob.startswith(IN_S3)

    def link(self, job_id: str, index: int, one: BlobRecord, method: str = "GET") -> str | None:
        """Where anyone may GET, or HEAD, something stored; None where its bytes come from the gateway alone. Blocks."""
        if self._blobs is None or not self.has(one):
            return None
        disposition = f'inline; filename="{file_name(job_id, index, one)}"'
        try:
            name = one.blob.removeprefix(IN_S3)
            return self._blobs.link(name, self._seconds, method, content_type_of(one), disposition)
        except FarmError as error:
            logger.warning("there is no direct link: %s", error)
            return None

    def close(self) -> None:
        """Close what was opened. Blocks."""
        if self._blobs is not None:
            self._blobs.close()


def content_type_of(one: BlobRecord) -> str:
    """The type of something stored."""
    if isinstance(one, VideoRecord):
        return VIDEO_TYPES[one.video_format]
    return f"image/{one.image_format}" if isinstance(one, ImageRecord) else SAFETENSORS


def file_name(job_id: str, index: int, one: BlobRecord) -> str:
    """The name under which a browser saves it."""
    if isinstance(one, VideoRecord):
        return f"{job_id}-{index}.{one.video_format}"
    return f"{job_id}-{index}.{one.image_format}" if isinstance(one, ImageRecord) else f"{job_id}.safetensors"
