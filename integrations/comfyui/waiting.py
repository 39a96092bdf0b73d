"""Waiting as a node should: other nodes run meanwhile, and ComfyUI's Cancel ends it."""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Final, TypeVar

from vaefarm_producer import FarmError, Job, WaitTimeout

T = TypeVar("T")

#: Seconds between looks whether the user has canceled the prompt.
LOOK_SECONDS: Final[float] = 0.1

#: ComfyUI makes an event loop for each prompt, and a loop waits for its own threads when it ends: these are left alone.
THREADS: Final[ThreadPoolExecutor] = ThreadPoolExecutor(16, thread_name_prefix="vaefarm")


def check_interrupted() -> None:
    """Raise ComfyUI's InterruptProcessingException if the user has canceled the prompt."""
    management = sys.modules.get("comfy.model_management")
    if management is not None:
        management.throw_exception_if_processing_interrupted()


async def patiently(work: Awaitable[T], seconds: float | None = None) -> T:
    """Await something; cancel it when the prompt is canceled.

    Raises TimeoutError after `seconds`, ComfyUI's InterruptProcessingException, and what `work` raises.
    """
    future = asyncio.ensure_future(work)
    end = None if seconds is None else monotonic() + seconds
    try:
        while not future.done():
            check_interrupted()
            if end is not None and monotonic() >= end:
                raise TimeoutError
            await asyncio.wait([future], timeout=LOOK_SECONDS)
        return future.result()
    finally:
        future.cancel()


async def on_thread(call: Callable[[], T]) -> T:
    """What a call gives that blocks. Raises as `patiently`; the call itself is not interrupted."""
    return await patiently(asyncio.get_running_loop().run_in_executor(THREADS, call))


async def submitted(submit: Callable[[], Job]) -> Job:
    """The job of a submit. One that nobody waits for any more is discarded as soon as it is there."""
    submission = Submission(submit)
    try:
        return await on_thread(submission.run)
    except BaseException:
        submission.leave()
        raise


class Submission:
    """A submit that may be left to itself."""

    def __init__(self, submit: Callable[[], Job]) -> None:
        self._submit = submit
        self._lock = threading.Lock()
        self._left = False
        self._job: Job | None = None

    def run(self) -> Job:
        """Submit; the job, which is discarded if nobody wants it any more."""
        job = self._submit()
        with self._lock:
            self._job, left = job, self._left
        if left:
            discard(job)
        return job

    def leave(self) -> None:
        """Say that nobody wants the job."""
        with self._lock:
            self._left, job = True, self._job
        if job is not None:
            forget(job)


async def ended(job: Job, seconds: float | None) -> None:
    """Return once a job has ended.

    Raises WaitTimeout after `seconds`, JobNotFound, and ComfyUI's InterruptProcessingException.
    """
    future = await on_thread(job.ended)
    try:
        await patiently(asyncio.wrap_future(future), seconds)
    except TimeoutError:
        raise WaitTimeout(
            f"job {job.id!r} has not ended within {seconds:g} seconds: does a worker serve its VAE (vaefarm status)?"
        ) from None


def forget(job: Job) -> None:
    """Have a job canceled, and what came of it removed, without waiting for it."""
    THREADS.submit(discard, job)


def discard(job: Job) -> None:
    """Cancel a job and remove what came of it; a farm that is away now lets it expire by itself."""
    with suppress(FarmError):
        job.discard()
