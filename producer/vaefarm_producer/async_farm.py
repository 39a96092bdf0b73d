"""`AsyncFarm`: the same farm for asyncio. Redis calls run on threads; waiting costs none."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Self, Unpack

from PIL import Image

from vaefarm_shared.errors import WaitTimeout
from vaefarm_shared.job import JobRecord, JobStatus
from vaefarm_shared.reading import QueueDepth
from vaefarm_shared.settings import Settings

from .farm import Farm
from .handle import Job, Result, only
from .submission import SubmitOptions


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
        future = await asyncio.to_thread(self._job.ended)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            raise WaitTimeout(
                f"job {self.id!r} has not ended within {timeout} seconds; it lives on: wait again, or cancel it"
            ) from None

    async def result(self, timeout: float | None = None) -> Result:
        """As `Job.result`."""
        await self.wait(timeout)
        return await asyncio.to_thread(self._job.fetch)

    async def images(self, timeout: float | None = None) -> list[Image.Image]:
        """As `Job.images`."""
        result = await self.result(timeout)
        return list(await asyncio.to_thread(lambda: result.images))

    async def image(self, timeout: float | None = None) -> Image.Image:
        """As `Job.image`."""
        return only(self.id, await self.images(timeout))

    async def cancel(self) -> bool:
        """As `Job.cancel`."""
        return await asyncio.to_thread(self._job.cancel)

    async def discard(self) -> None:
        """As `Job.discard`."""
        await asyncio.to_thread(self._job.discard)


class AsyncFarm:
    """`Farm` for asyncio: the same methods, awaited."""

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        """As `Farm`."""
        self._farm = Farm(url, settings=settings)

    @classmethod
    def from_env(cls) -> Self:
        """As `Farm.from_env`."""
        return cls(settings=Settings.from_env())

    async def submit(
        self, latents: Any, *, vae: str, job_id: str | None = None, **options: Unpack[SubmitOptions]
    ) -> AsyncJob:
        """As `Farm.submit`."""
        return AsyncJob(await asyncio.to_thread(self._farm.submit, latents, vae=vae, job_id=job_id, **options))

    async def submit_many(
        self,
        latents: Iterable[Any],
        *,
        vae: str,
        job_ids: Sequence[str] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> list[AsyncJob]:
        """As `Farm.submit_many`."""
        jobs = await asyncio.to_thread(self._farm.submit_many, latents, vae=vae, job_ids=job_ids, **options)
        return [AsyncJob(job) for job in jobs]

    def job(self, job_id: str) -> AsyncJob:
        """As `Farm.job`."""
        return AsyncJob(self._farm.job(job_id))

    async def as_completed(
        self, jobs: Iterable[AsyncJob], *, timeout: float | None = None, discard: bool = False
    ) -> AsyncIterator[AsyncJob]:
        """As `Farm.as_completed`."""
        waiting = {asyncio.ensure_future(job.wait()): job for job in jobs}
        end = None if timeout is None else asyncio.get_running_loop().time() + timeout
        try:
            while waiting:
                left = None if end is None else max(0.0, end - asyncio.get_running_loop().time())
                done, _ = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    raise WaitTimeout(f"{len(waiting)} jobs have not ended within {timeout} seconds; they live on")
                for task in [task for task in waiting if task in done]:
                    job = waiting.pop(task)
                    task.result()
                    yield job
                    if discard:
                        await job.discard()
        finally:
            for task in waiting:
                task.cancel()

    async def queues(self) -> list[QueueDepth]:
        """As `Farm.queues`."""
        return await asyncio.to_thread(self._farm.queues)

    async def workers(self) -> list[dict[str, object]]:
        """As `Farm.workers`."""
        return await asyncio.to_thread(self._farm.workers)

    async def close(self) -> None:
        """As `Farm.close`."""
        await asyncio.to_thread(self._farm.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
