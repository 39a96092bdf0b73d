"""`AsyncFarm`: the same farm for asyncio. Calls run on threads; waiting costs none."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from os import PathLike
from typing import Any, Literal, Self, Unpack, overload

from vaefarm_shared.errors import FarmError, QueueFull, QuotaExceeded, WaitTimeout
from vaefarm_shared.failures import FailedJob
from vaefarm_shared.job import JobStatus
from vaefarm_shared.overview import Overview
from vaefarm_shared.reading import QueueDepth
from vaefarm_shared.settings import Settings
from vaefarm_shared.workers import WorkerEndpoint

from .async_flow import walk
from .async_handle import AsyncJob
from .backpressure import Patience
from .encoding import EncodeOptions
from .farm import Farm
from .handle import Job
from .result import Result
from .sending import batches
from .submission import DecodeOptions, PreparedJob, SubmitOptions
from .transport import Flushed


class AsyncFarm:
    """`Farm` for asyncio: the same methods, awaited."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        spool: str | PathLike[str] | None = None,
        settings: Settings | None = None,
    ) -> None:
        """As `Farm`."""
        self._farm = Farm(url, key=key, spool=spool, settings=settings)

    @classmethod
    def from_env(cls) -> Self:
        """As `Farm.from_env`."""
        return cls(settings=Settings.from_env())

    async def submit(
        self,
        latents: Any,
        *,
        vae: str,
        job_id: str | None = None,
        block: bool = False,
        timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> AsyncJob:
        """As `Farm.submit`; no thread is held while it waits."""
        prepared = await asyncio.to_thread(self._farm.prepare, latents, vae=vae, job_id=job_id, **options)
        return (await self.submit_prepared([prepared], block=block, timeout=timeout))[0]

    async def submit_many(
        self,
        latents: Iterable[Any],
        *,
        vae: str,
        job_ids: Sequence[str] | None = None,
        block: bool = False,
        timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> list[AsyncJob]:
        """As `Farm.submit_many`; no thread is held while it waits."""
        prepared = await asyncio.to_thread(self._farm.prepare_many, latents, vae=vae, job_ids=job_ids, **options)
        return await self.submit_prepared(prepared, block=block, timeout=timeout)

    async def encode(
        self,
        image: Any,
        *,
        vae: str,
        job_id: str | None = None,
        block: bool = False,
        timeout: float | None = None,
        **options: Unpack[EncodeOptions],
    ) -> AsyncJob:
        """As `Farm.encode`; no thread is held while it waits."""
        prepared = await asyncio.to_thread(self._farm.prepare_encode, image, vae=vae, job_id=job_id, **options)
        return (await self.submit_prepared([prepared], block=block, timeout=timeout))[0]

    async def prepare(
        self, latents: Any, *, vae: str, job_id: str | None = None, **options: Unpack[SubmitOptions]
    ) -> PreparedJob:
        """As `Farm.prepare`."""
        return await asyncio.to_thread(self._farm.prepare, latents, vae=vae, job_id=job_id, **options)

    async def submit_prepared(
        self, prepared: Sequence[PreparedJob], *, block: bool = False, timeout: float | None = None
    ) -> list[AsyncJob]:
        """As `Farm.submit_prepared`; no thread is held while it waits."""
        patience = Patience(block, timeout)
        jobs: list[Job] = []
        for batch, _ in batches(prepared):
            while True:
                try:
                    jobs += await asyncio.to_thread(self._farm.submit_prepared, batch)
                    break
                except (QueueFull, QuotaExceeded) as refusal:
                    await asyncio.sleep(patience.after(refusal))
        return [AsyncJob(job) for job in jobs]

    @overload
    def map(
        self,
        latents: Iterable[Any] | AsyncIterable[Any],
        *,
        vae: str,
        window: int = ...,
        ordered: bool = ...,
        on_error: Literal["raise"] = ...,
        timeout: float | None = ...,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[Result, None]: ...

    @overload
    def map(
        self,
        latents: Iterable[Any] | AsyncIterable[Any],
        *,
        vae: str,
        window: int = ...,
        ordered: bool = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[Result | FarmError, None]: ...

    def map(self, latents: Iterable[Any] | AsyncIterable[Any], **options: Any) -> Any:
        """As `Farm.map`, of an asynchronous iterable too; any other is read on a thread, one for each map.

        Nothing is asked before the first step. Left early, it cancels what is under way once it is closed:
        `contextlib.aclosing` says when.
        """
        return walk(latents, lambda source: self._farm.results(source, **options))

    async def put_latent(
        self, latents: Any, *, vae: str, job_id: str | None = None, **options: Unpack[DecodeOptions]
    ) -> dict[str, Any]:
        """As `Farm.put_latent`."""
        return await asyncio.to_thread(self._farm.put_latent, latents, vae=vae, job_id=job_id, **options)

    async def cancel_many(self, jobs: Iterable[AsyncJob]) -> list[JobStatus | None]:
        """As `Farm.cancel_many`."""
        return await asyncio.to_thread(self._farm.cancel_many, [self._farm.job(job.id) for job in jobs])

    async def flush(self, timeout: float | None = None) -> Flushed:
        """As `Farm.flush`."""
        return await asyncio.to_thread(self._farm.flush, timeout)

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

    async def overview(self) -> Overview:
        """As `Farm.overview`."""
        return await asyncio.to_thread(self._farm.overview)

    async def queues(self) -> list[QueueDepth]:
        """As `Farm.queues`."""
        return await asyncio.to_thread(self._farm.queues)

    async def workers(self) -> list[dict[str, object]]:
        """As `Farm.workers`."""
        return await asyncio.to_thread(self._farm.workers)

    async def endpoints(self) -> list[WorkerEndpoint]:
        """As `Farm.endpoints`."""
        return await asyncio.to_thread(self._farm.endpoints)

    async def pause(self, vae: str) -> bool:
        """As `Farm.pause`."""
        return await asyncio.to_thread(self._farm.pause, vae)

    async def resume(self, vae: str) -> bool:
        """As `Farm.resume`."""
        return await asyncio.to_thread(self._farm.resume, vae)

    async def paused(self) -> list[str]:
        """As `Farm.paused`."""
        return await asyncio.to_thread(self._farm.paused)

    async def failed(self, vae: str | None = None) -> list[FailedJob]:
        """As `Farm.failed`, all at once."""
        return await asyncio.to_thread(lambda: list(self._farm.failed(vae)))

    async def close(self) -> None:
        """As `Farm.close`."""
        await asyncio.to_thread(self._farm.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
