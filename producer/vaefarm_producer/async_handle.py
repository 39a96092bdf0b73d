"""A job in the hands of a program of asyncio."""

import asyncio

from PIL import Image

from vaefarm_shared.job import JobStatus
from vaefarm_shared.latents import HostTensor, Latents
from vaefarm_shared.records import JobRecord

from .handle import PREVIEW_LOOK_SECONDS, Job, unended
from .result import Result, Video, only


class AsyncJob:
    """A job for asyncio; see `Job` for what each method does and raises."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.id = job.id

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r})"

    async def status(self) -> JobStatus:
        """As `Job.status`."""
        return await asyncio.to_thread(self._job.status)

    async def record(self) -> JobRecord:
        """As `Job.record`."""
        return await asyncio.to_thread(self._job.record)

    async def wait(self, timeout: float | None = None) -> JobStatus:
        """As `Job.wait`; no thread is held while it waits."""
        if timeout is not None and timeout <= 0:
            return await asyncio.to_thread(self._job.look)
        future = await asyncio.to_thread(self._job.ended)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            raise unended(self.id, timeout) from None

    async def result(self, timeout: float | None = None) -> Result:
        """As `Job.result`."""
        await self.wait(timeout)
        return await asyncio.to_thread(self._job.fetch)

    async def images(self, timeout: float | None = None) -> list[Image.Image]:
        """As `Job.images`."""
        result = await self.result(timeout)
        return list(await asyncio.to_thread(lambda: result.images))

    async def image(self, timeout: float | None = None, *, index: int | None = None) -> Image.Image:
        """As `Job.image`."""
        if index is None:
            return only(self.id, await self.images(timeout))
        await self.wait(timeout)
        return await asyncio.to_thread(self._job.fetch_image, index)

    async def preview(self, timeout: float = 0.0, *, index: int = 0) -> Image.Image | None:
        """As `Job.preview`; one look at a time is on a thread."""
        end = asyncio.get_running_loop().time() + timeout
        while True:
            image, is_over = await asyncio.to_thread(self._job.glimpse, index)
            if image is not None or is_over or (left := end - asyncio.get_running_loop().time()) <= 0:
                return image
            await asyncio.sleep(min(PREVIEW_LOOK_SECONDS, left))

    async def videos(self, timeout: float | None = None) -> list[Video]:
        """As `Job.videos`."""
        return list((await self.result(timeout)).videos)

    async def video(self, timeout: float | None = None) -> Video:
        """As `Job.video`."""
        await self.wait(timeout)
        return await asyncio.to_thread(self._job.video)

    async def latents(self, timeout: float | None = None) -> Latents:
        """As `Job.latents`."""
        return (await self.result(timeout)).latents

    async def tensor(self, timeout: float | None = None) -> HostTensor:
        """As `Job.tensor`."""
        return (await self.result(timeout)).tensor

    async def cancel(self) -> bool:
        """As `Job.cancel`."""
        return await asyncio.to_thread(self._job.cancel)

    async def retry(self) -> bool:
        """As `Job.retry`."""
        return await asyncio.to_thread(self._job.retry)

    async def discard(self) -> None:
        """As `Job.discard`."""
        await asyncio.to_thread(self._job.discard)
