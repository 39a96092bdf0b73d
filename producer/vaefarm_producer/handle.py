"""A job in a producer's hands: ask how it stands, wait for it, take its pictures."""

import io
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from vaefarm_shared.errors import InvalidOption, JobCanceled, JobFailed, WaitTimeout
from vaefarm_shared.job import DecodeReport, JobRecord, JobStatus
from vaefarm_shared.reading import expired

from .transport import Transport


@dataclass(frozen=True)
class Result:
    """What came of a finished job: each picture's bytes as they were stored, and how they were made."""

    record: JobRecord
    report: DecodeReport
    data: tuple[bytes, ...]

    @cached_property
    def images(self) -> tuple[Image.Image, ...]:
        """The pictures, opened."""
        return tuple(
            open_image(data, image.image_format) for data, image in zip(self.data, self.report.images, strict=True)
        )


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
        """Block until the job has ended, `timeout` seconds at most; return its status.

        Raises:
            WaitTimeout: it has not ended in time; it lives on.
            JobNotFound: no such job.
        """
        future = self.ended()
        try:
            return future.result(timeout)
        except FutureTimeout:
            future.cancel()
            raise WaitTimeout(
                f"job {self.id!r} has not ended within {timeout} seconds; it lives on: wait again, or cancel it"
            ) from None

    def ended(self) -> "Future[JobStatus]":
        """A future of the job's final status, for those who wait for several things at once."""
        return self._transport.ended(self.id)

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the job; its pictures' bytes and its record.

        Raises:
            WaitTimeout, JobNotFound: as `wait`.
            JobFailed, JobCanceled, JobExpired: it ended without pictures, or they are past their life.
        """
        self.wait(timeout)
        return self.fetch()

    def fetch(self) -> Result:
        """The pictures of a job that has ended. Raises as `result`, and WaitTimeout while it has not ended."""
        record = self.record()
        report = pictures_of(record)
        return Result(record, report, tuple(self._transport.picture(self.id, image) for image in report.images))

    def images(self, timeout: float | None = None) -> list[Image.Image]:
        """Wait for the job; all its pictures. Raises as `result`."""
        return list(self.result(timeout).images)

    def image(self, timeout: float | None = None) -> Image.Image:
        """Wait for the job; its one picture.

        Raises:
            InvalidOption: it has several: use `images()`.
        """
        return only(self.id, self.result(timeout).images)

    def cancel(self) -> bool:
        """End the job unless it has ended; True when it is canceled now. Raises JobNotFound."""
        return self._transport.cancel(self.id)

    def retry(self) -> bool:
        """Put a failed job back on its queue, with all its attempts; False where it has not failed.

        Raises JobNotFound, and JobExpired where its latent was not kept.
        """
        return self._transport.retry(self.id)

    def discard(self) -> None:
        """Remove pictures and record, canceling the job first. Its id then counts as expired."""
        self._transport.discard(self.id)


def pictures_of(record: JobRecord) -> DecodeReport:
    """The report of a finished job, else the error that says why there are no pictures."""
    match record.status:
        case JobStatus.FINISHED if record.report is not None:
            return record.report
        case JobStatus.FAILED:
            raise JobFailed(f"job {record.id!r} failed: {record.reason}")
        case JobStatus.CANCELED:
            raise JobCanceled(f"job {record.id!r} was canceled")
        case JobStatus.EXPIRED:
            raise expired(record.id, record.reason)
    raise WaitTimeout(f"job {record.id!r} is {record.status.value}; it has no pictures yet")


def only(job_id: str, images: Sequence[Image.Image]) -> Image.Image:
    """The one picture of a job. Raises InvalidOption when there are several."""
    if len(images) != 1:
        raise InvalidOption(f"job {job_id!r} has {len(images)} pictures; use images()")
    return images[0]
