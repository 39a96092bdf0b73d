"""A job in a producer's hands: ask how it stands, wait for it, take its pictures, latents or raw tensor."""

import io
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from PIL import Image

from vaefarm_shared.errors import InvalidOption, JobCanceled, JobFailed, WaitTimeout
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus
from vaefarm_shared.latents import STORAGE, HostTensor, Latents, read_tensor, unpack
from vaefarm_shared.reading import expired
from vaefarm_shared.records import DecodeReport, JobRecord, VideoRecord

from .read_ahead import ReadAhead
from .transport import Transport

#: Seconds between two looks of one who waits for a preview.
PREVIEW_LOOK_SECONDS: Final[float] = 0.1

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


class Job:
    """A job, by its id. It holds no state: any process may have one, and each method asks anew."""

    def __init__(self, job_id: str, transport: Transport) -> None:
        self.id = job_id
        self._transport = transport
        #: Reads it with others that ended together, of a job that `as_completed` gave.
        self._ahead: ReadAhead | None = None

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def status(self) -> JobStatus:
        """'queued', 'started', 'finished', 'failed', 'canceled', 'expired', or 'spooled'. Raises JobNotFound."""
        return self._transport.status(self.id)

    def record(self) -> JobRecord:
        """Everything that is known of the job. Raises JobNotFound."""
        return self._transport.record(self.id)

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Block until the job has ended, `timeout` seconds at most; return its status. 0 looks once.

        Raises:
            WaitTimeout: it has not ended in time; it lives on.
            JobNotFound: no such job.
        """
        if timeout is not None and timeout <= 0:
            return self.look()
        future = self.ended()
        try:
            return future.result(timeout)
        except FutureTimeout:
            future.cancel()
            raise unended(self.id, timeout) from None

    def look(self) -> JobStatus:
        """The status of a job that has ended. Raises WaitTimeout while it has not, and JobNotFound."""
        if (status := self.status()) not in TERMINAL_STATUSES:
            raise unended(self.id, 0)
        return status

    def ended(self) -> "Future[JobStatus]":
        """A future of the job's final status, for those who wait for several things at once."""
        return self._transport.ended(self.id)

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the job; the bytes of its pictures, or latents, and its record.

        Raises:
            WaitTimeout, JobNotFound: as `wait`.
            JobFailed, JobCanceled, JobExpired: it ended without a result, or that is past its life.
        """
        if self._ahead is not None:
            # It had ended: only a retry since then makes it wait.
            with suppress(WaitTimeout):
                return self.fetch()
        self.wait(timeout)
        return self.fetch()

    def fetch(self) -> Result:
        """The result of a job that has ended. Raises as `result`, and WaitTimeout while it has not ended."""
        if self._ahead is not None and (taken := self._ahead.take(self.id)) is not None:
            return Result(taken[0], report_of(taken[0]), taken[1])
        record = self.record()
        report = report_of(record)
        return Result(record, report, tuple(self._transport.stored(self.id, one) for one in report.stored))

    def images(self, timeout: float | None = None) -> list[Image.Image]:
        """Wait for the job; all its pictures. Raises as `result`, and InvalidOption for what has none."""
        return list(self.result(timeout).images)

    def image(self, timeout: float | None = None, *, index: int | None = None) -> Image.Image:
        """Wait for the job; its one picture, or of several the one at `index`, from 0: no other is fetched.

        Raises:
            InvalidOption: it has several, and no `index` is given; it has none at that index; or none at all.
        """
        if index is None:
            return only(self.id, self.result(timeout).images)
        self.wait(timeout)
        return self.fetch_image(index)

    def fetch_image(self, index: int) -> Image.Image:
        """The picture at `index` of a job that has ended. Raises as `image`, and WaitTimeout while it has not ended."""
        report = report_of(self.record())
        check_kind(self.id, report, "pictures")
        images = report.images
        if not 0 <= index < len(images):
            raise InvalidOption(f"job {self.id!r} has no picture {index}; it has {len(images)}, counted from 0")
        return open_image(self._transport.stored(self.id, images[index]), images[index].image_format)

    def preview(self, timeout: float = 0.0, *, index: int = 0) -> Image.Image | None:
        """The newest preview of a job that has not ended, or was not submitted yet; None where there is none.

        There is none while none was made; when none was asked for, or its decode failed; and once the job has ended,
        whose own picture is at hand then.

        Args:
            timeout: Seconds to wait for one; not for another than there is.
            index: Which of several pictures, from 0.
        """
        end = monotonic() + timeout
        while True:
            image, is_over = self.glimpse(index)
            left = end - monotonic()
            if image is not None or is_over or left <= 0:
                return image
            sleep(min(PREVIEW_LOOK_SECONDS, left))

    def glimpse(self, index: int) -> tuple[Image.Image | None, bool]:
        """What `preview` gives just now, and whether there will be none any more."""
        found = self._transport.preview(self.id, index)
        return None if found.data is None else open_image(found.data, found.image_format), found.is_over

    def videos(self, timeout: float | None = None) -> list[Video]:
        """Wait for the job; all its videos. Raises as `result`, and InvalidOption for what has none."""
        return list(self.result(timeout).videos)

    def video(self, timeout: float | None = None) -> Video:
        """Wait for the job; its one video: `job.video().save("out.mp4")`. Raises as `videos`, and if it has several."""
        videos = self.videos(timeout)
        if len(videos) != 1:
            raise InvalidOption(f"job {self.id!r} has {len(videos)} videos; use videos()")
        return videos[0]

    def latents(self, timeout: float | None = None) -> Latents:
        """Wait for an encode; (n, channels, height / scale, width / scale) latents as an img2img pipeline holds them.

        `.torch()` makes a tensor of them in the dtype in which they were encoded, `.numpy()` float32 of the same
        values; `Farm.submit` takes them as they are. Raises as `result`, and InvalidOption for a decode.
        """
        return self.result(timeout).latents

    def tensor(self, timeout: float | None = None) -> HostTensor:
        """Wait for a decode with output_type='pt'; float16 (n, channels, height, width), about [-1, 1], not clamped.

        `.numpy()` is float32 of the same values, `.array` float16, `.torch()` a torch tensor;
        `vaefarm_shared.unit.to_pixels` makes pixels of `.array`. Raises as `result`, and InvalidOption for other jobs.
        """
        return self.result(timeout).tensor

    def cancel(self) -> bool:
        """End the job unless it has ended; True when it is canceled now. Raises JobNotFound."""
        return self._transport.cancel(self.id)

    def retry(self) -> bool:
        """Put a failed job back on its queue, with all its attempts; False where it has not failed.

        Raises JobNotFound, and JobExpired where its latent was not kept.
        """
        return self._transport.retry(self.id)

    def discard(self) -> None:
        """Remove pictures and record, canceling the job first.

        Its id then counts as expired: a finished job's for a minute, any other's for a week.
        """
        self._ahead = None
        self._transport.discard(self.id)


def read_together(transport: Transport, jobs: Sequence[Job]) -> None:
    """Have the results of jobs that have ended be read some at a time, as they are taken in this order."""
    ahead = ReadAhead(transport, [job.id for job in jobs])
    for job in jobs:
        job._ahead = ahead


def unended(job_id: str, timeout: float | None) -> WaitTimeout:
    """What a wait raises whose time is over."""
    return WaitTimeout(f"job {job_id!r} has not ended within {timeout} seconds; it lives on: wait again, or cancel it")


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
