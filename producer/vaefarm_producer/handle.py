"""A job in a producer's hands: ask how it stands, wait for it, take its pictures, latents or raw tensor."""

from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from time import monotonic, sleep
from typing import Final

from PIL import Image

from vaefarm_shared.errors import FarmUnavailable, InvalidOption, RetryLater, WaitTimeout
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus
from vaefarm_shared.latents import HostTensor, Latents
from vaefarm_shared.records import JobRecord

from .read_ahead import ReadAhead
from .result import Result, Video, check_kind, only, open_image, report_of
from .transport import Transport

#: Seconds between two looks of one who waits for a preview.
PREVIEW_LOOK_SECONDS: Final[float] = 0.1


class Job:
    """A job, by its id: any process may have one, and each method asks anew.

    But the first result that is asked of a job which `as_completed` gave may have been read before, with others.
    """

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
            # It had ended: only a retry since then makes it wait, or a farm that is away.
            with suppress(WaitTimeout, FarmUnavailable, RetryLater):
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
