"""What came of a job: the files of its pictures or videos, its latents or raw tensor."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Final

from PIL import Image

from vaefarm_shared.errors import InvalidOption, JobCanceled, JobFailed, WaitTimeout
from vaefarm_shared.job import JobStatus
from vaefarm_shared.latents import STORAGE, HostTensor, Latents, read_tensor, unpack
from vaefarm_shared.reading import expired
from vaefarm_shared.records import DecodeReport, JobRecord, VideoRecord

#: File name ending of latents and raw tensors.
LATENTS_SUFFIX: Final[str] = ".safetensors"


@dataclass(frozen=True)
class Video:
    """One video's file, as stored."""

    data: bytes
    record: VideoRecord

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file. Raises OSError."""
        Path(path).write_bytes(self.data)


@dataclass(frozen=True)
class Result:
    """What came of a finished job: the bytes of each picture or video, of its latents or of its raw tensor, as stored,
    and how they were made."""

    record: JobRecord
    report: DecodeReport
    data: tuple[bytes, ...]
    #: The place of its latents among those that `Farm.map` was given, from 0.
    place: int | None = None

    @cached_property
    def images(self) -> tuple[Image.Image, ...]:
        """The pictures, opened. Raises InvalidOption for an encode, or output_type='pt', which have none."""
        check_kind(self.record.id, self.report, "pictures")
        return tuple(
            open_image(data, image.image_format) for data, image in zip(self.data, self.report.images, strict=True)
        )

    @cached_property
    def videos(self) -> tuple[Video, ...]:
        """The videos. Raises InvalidOption for jobs that make none."""
        check_kind(self.record.id, self.report, "videos")
        return tuple(Video(*one) for one in zip(self.data, self.report.videos, strict=True))

    @cached_property
    def latents(self) -> Latents:
        """The latents, unpacked. Raises InvalidOption for a decode, which has none."""
        check_kind(self.record.id, self.report, "latents")
        return unpack(self.data[0])

    @cached_property
    def tensor(self) -> HostTensor:
        """The raw tensor, unpacked. Raises InvalidOption for jobs of another kind than output_type='pt'."""
        check_kind(self.record.id, self.report, "a raw tensor")
        return HostTensor(*read_tensor(self.data[0], STORAGE))


def open_image(data: bytes, image_format: str) -> Image.Image:
    """Open a picture's bytes as the format that its record names, and no other."""
    image = Image.open(io.BytesIO(data), formats=[image_format.upper()])
    image.load()
    return image


def report_of(record: JobRecord) -> DecodeReport:
    """The report of a finished job, else the error that says why there is no result."""
    match record.status:
        case JobStatus.FINISHED if record.report is not None:
            return record.report
        case JobStatus.FAILED:
            raise JobFailed(f"job {record.id!r} failed: {record.reason}")
        case JobStatus.CANCELED:
            raise JobCanceled(f"job {record.id!r} was canceled")
        case JobStatus.EXPIRED:
            raise expired(record.id, record.reason)
    raise WaitTimeout(f"job {record.id!r} is {record.status.value}; it has no result yet")


def check_kind(job_id: str, report: DecodeReport, wanted: str) -> None:
    """Raise InvalidOption unless a job has what is wanted: 'pictures', 'videos', 'latents' or 'a raw tensor'."""
    if report.latents is not None:
        kind, has, use = "is an encode", "latents", "latents()"
    elif report.tensor is not None:
        kind, has, use = "was submitted with output_type='pt'", "a raw tensor", "tensor()"
    elif report.videos:
        kind, has, use = "makes videos", "videos", "videos()"
    else:
        kind, has, use = "is a decode", "pictures", "images()"
    if has != wanted:
        raise InvalidOption(f"job {job_id!r} {kind} and has {has}, no {wanted.removeprefix('a ')}; use {use}")


def only(job_id: str, images: Sequence[Image.Image]) -> Image.Image:
    """The one picture of a job. Raises InvalidOption when there are several."""
    if len(images) != 1:
        raise InvalidOption(f"job {job_id!r} has {len(images)} pictures; use images(), or image(index=0)")
    return images[0]
