"""Waiting for jobs over HTTP: one stream of events for all ids of a process.

An event can be missed, while the stream is down or before it stands, so the statuses are read once it stands, after
each reconnect and `reset`, and every few seconds besides.
"""

import asyncio
import json
import logging
import os
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

import aiohttp

from vaefarm_shared.errors import FarmError
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus
from vaefarm_shared.reading import not_found

from .background import Background
from .http_client import PASSING, SILENT_SECONDS, HttpClient
from .http_events import ServerEvent, read_stream
from .watcher import resolve

logger = logging.getLogger(__name__)

#: Seconds between two looks at the status of every job waited for, and how many times what a look took at least.
LOOK_SECONDS: Final[float] = 3.0
LOOK_TIMES: Final[float] = 10.0

#: Jobs whose status one request reads.
PAGE: Final[int] = 1000

#: Seconds before another try when the gateway is away.
RECONNECT_SECONDS: Final[float] = 0.5

#: What the stream tells of: ends alone.
ENDS: Final[str] = ",".join(sorted(TERMINAL_STATUSES))


class HttpWatcher:
    """Futures of jobs' ends, resolved on the background loop. The stream is open while anybody waits."""

    def __init__(self, client: HttpClient, background: Background) -> None:
        self._client = client
        self._background = background
        self._lock = threading.Lock()
        self._forget(0)

    def _forget(self, pid: int) -> None:
        """Begin anew: a forked child has the futures' memory but not the loop."""
        self._pid = pid
        self._waiting: dict[str, list[Future[JobStatus]]] = {}
        #: Jobs whose status is to be read as soon as may be.
        self._fresh: list[str] = []
        self._is_rung = False
        self._bell = asyncio.Event()
        self._stream: asyncio.Task[None] | None = None
        self._looks: asyncio.Task[None] | None = None
        self._last_event_id = ""

    def ended(self, job_id: str) -> "Future[JobStatus]":
        """A future of the job's final status, of JobNotFound, or of an error that no waiting mends."""
        future: Future[JobStatus] = Future()
        with self._lock:
            if self._pid != os.getpid():
                self._forget(os.getpid())
            self._waiting.setdefault(job_id, []).append(future)
            self._fresh.append(job_id)
            # Many waits that begin together need one ring.
            rings, self._is_rung = not self._is_rung, True
        if rings:
            self._background.loop.call_soon_threadsafe(self._ring)
        return future

    async def close(self) -> None:
        """Follow no longer; futures that still wait are canceled."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for task in (self._stream, self._looks):
            if task is not None and self._pid == os.getpid():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        for futures in waiting.values():
            for future in futures:
                future.cancel()

    def _ring(self) -> None:
        if self._looks is None:
            self._looks = asyncio.create_task(self._look_on())
        if self._stream is None:
            self._stream = asyncio.create_task(self._follow_on())
        self._bell.set()

    async def _look_on(self) -> None:
        """Read the status of who waits anew at once, of all every few seconds."""
        due, pause = 0.0, LOOK_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self._bell.wait()
            began, is_due = time.monotonic(), time.monotonic() >= due
            job_ids = self._wanted(everyone=is_due)
            if is_due and not job_ids:
                self._hang_up()
            try:
                await self._look(job_ids)
            except PASSING as error:
                logger.debug("the gateway is away: %s", error)
                with self._lock:
                    self._fresh += job_ids
                await asyncio.sleep(max(RECONNECT_SECONDS, getattr(error, "retry_after_seconds", 0.0)))
            except Exception as error:
                # No key, or one that is none: it will not be otherwise tomorrow.
                if not isinstance(error, FarmError):
                    logger.exception("reading statuses went wrong")
                for job_id in job_ids:
                    self._resolve(job_id, error)
            if is_due:
                pause = max(LOOK_SECONDS, LOOK_TIMES * (time.monotonic() - began))
                due = time.monotonic() + pause

    def _wanted(self, *, everyone: bool) -> list[str]:
        with self._lock:
            self._is_rung = False
            self._bell.clear()
            fresh, self._fresh = self._fresh, []
            if not everyone:
                return list(dict.fromkeys(job_id for job_id in fresh if job_id in self._waiting))
            for job_id, futures in list(self._waiting.items()):
                self._waiting[job_id] = [future for future in futures if not future.done()]
                if not self._waiting[job_id]:
                    del self._waiting[job_id]
            return list(self._waiting)

    def _hang_up(self) -> None:
        """Follow no events while nobody waits."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream, self._last_event_id = None, ""

    async def _look(self, job_ids: list[str]) -> None:
        for start in range(0, len(job_ids), PAGE):
            page = job_ids[start : start + PAGE]
            answer = await self._client.call("POST", "/v1/statuses", json={"ids": page})
            for job_id, status in zip(page, answer.json()["statuses"], strict=True):
                if status is None:
                    self._resolve(job_id, not_found(job_id))
                elif status in TERMINAL_STATUSES:
                    self._resolve(job_id, JobStatus(status))

    async def _follow_on(self) -> None:
        while True:
            try:
                await self._follow()
            except FarmError as error:
                logger.debug("the stream of events ended: %s", error)
            except Exception:
                # Whatever one event was, the others are waited for.
                logger.exception("following events begins anew")
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _follow(self) -> None:
        headers = {"Accept": "text/event-stream"}
        if self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=SILENT_SECONDS)
        path = f"/v1/events?status={ENDS}"
        async with self._client.open("GET", path, headers=headers, timeout=timeout) as response:
            await self._client.raise_for(response)
            # What ended before it stood shows in the statuses, what ends from here on is told.
            self._look_again()
            async for events in read_stream(response.content):
                for event in events:
                    self._take(event)

    def _take(self, event: ServerEvent) -> None:
        self._last_event_id = event.id or self._last_event_id
        if event.name == "reset":
            self._look_again()
        elif event.name == "status":
            told = json.loads(event.data)
            if told["id"] in self._waiting and told["status"] in TERMINAL_STATUSES:
                self._resolve(told["id"], JobStatus(told["status"]))

    def _look_again(self) -> None:
        with self._lock:
            self._fresh = list(self._waiting)
        self._bell.set()

    def _resolve(self, job_id: str, end: JobStatus | Exception) -> None:
        with self._lock:
            futures = self._waiting.pop(job_id, [])
        resolve(futures, end)
