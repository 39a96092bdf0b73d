"""Waiting for jobs without asking again and again: one subscriber connection for all ids of a process.

The settle of a job publishes on `done:{id}`. A message can be missed, while the connection is down or before the
subscription stands, so the status is read after subscribing, after each reconnect, and every few seconds besides.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Final
from uuid import uuid4

import redis

from vaefarm_shared import keys
from vaefarm_shared.connection import AWAY
from vaefarm_shared.job import TERMINAL_STATUSES, JobStatus
from vaefarm_shared.reading import not_found, read_statuses

logger = logging.getLogger(__name__)

#: Seconds between two looks at the status of every job waited for.
LOOK_SECONDS: Final[float] = 3.0

#: Jobs whose status one look reads while messages wait.
LOOK_JOBS: Final[int] = 500

#: Seconds before another try when Redis is away.
RECONNECT_SECONDS: Final[float] = 0.5


class Watcher:
    """Futures of jobs' ends, resolved by one thread that owns one subscription."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._wake_channel = keys.wake(uuid4().hex)
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Future[JobStatus]]] = {}
        #: Jobs that nobody waited for before the waits that began since the last look at them.
        self._fresh: set[str] = set()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._closing = False
        self._is_rung = False

    def ended(self, job_id: str) -> "Future[JobStatus]":
        """A future of the job's final status, or of JobNotFound."""
        future: Future[JobStatus] = Future()
        with self._lock:
            if self._pid != os.getpid():
                # A forked child has the futures' memory but not the thread.
                self._waiting, self._thread, self._pid, self._is_rung = {}, None, os.getpid(), False
                self._fresh = set()
            if job_id not in self._waiting:
                self._fresh.add(job_id)
            self._waiting.setdefault(job_id, []).append(future)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vaefarm-watcher", daemon=True)
                self._thread.start()
            # Many waits that begin together need one ring.
            rings, self._is_rung = not self._is_rung, True
        if rings:
            self._ring()
        return future

    def close(self) -> None:
        """Stop the thread; futures that still wait are canceled."""
        with self._lock:
            self._closing = True
            thread, waiting = self._thread, self._waiting
            self._waiting = {}
        if thread is not None and self._pid == os.getpid():
            self._ring()
            thread.join(LOOK_SECONDS)
        for futures in waiting.values():
            for future in futures:
                future.cancel()

    def _ring(self) -> None:
        try:
            self._connection.publish(self._wake_channel, "")
        except AWAY:
            logger.debug("Redis is away; the watcher looks again by itself")

    def _run(self) -> None:
        while not self._closing:
            pubsub = self._connection.pubsub()
            try:
                self._listen(pubsub)
            except AWAY as error:
                logger.debug("the watcher lost Redis: %s", error)
                time.sleep(RECONNECT_SECONDS)
            except Exception:
                # Whatever one message was, the others are waited for.
                logger.exception("the watcher begins anew")
                time.sleep(RECONNECT_SECONDS)
            finally:
                pubsub.close()

    def _listen(self, pubsub: Any) -> None:
        pubsub.subscribe(self._wake_channel)
        subscribed: set[str] = set()
        next_look = 0.0
        while not self._closing:
            # Walks over all that is waited for: not at each message.
            if self._is_rung or time.monotonic() >= next_look:
                subscribed = self._follow(pubsub, subscribed)
            message = pubsub.get_message(timeout=max(0.0, min(LOOK_SECONDS, next_look - time.monotonic())))
            fresh: list[str] = []
            while message is not None:
                fresh += self._take(message)
                # One look at those of many confirmations, while there are more.
                message = pubsub.get_message(timeout=0.0) if len(fresh) < LOOK_JOBS else None
            if time.monotonic() >= next_look:
                fresh, next_look = list(self._waiting), time.monotonic() + LOOK_SECONDS
            if fresh:
                self._look(fresh)

    def _follow(self, pubsub: Any, subscribed: set[str]) -> set[str]:
        """Subscribe to the jobs waited for now, unsubscribe from the others."""
        with self._lock:
            self._is_rung = False
            for job_id, futures in list(self._waiting.items()):
                self._waiting[job_id] = [future for future in futures if not future.done()]
                if not self._waiting[job_id]:
                    del self._waiting[job_id]
            wanted = set(self._waiting)
            # Of one that is still subscribed to from an earlier wait no confirmation comes.
            again, self._fresh = self._fresh & wanted & subscribed, set()
        if wanted - subscribed:
            pubsub.subscribe(*map(keys.done, wanted - subscribed))
        if subscribed - wanted:
            pubsub.unsubscribe(*map(keys.done, subscribed - wanted))
        if again:
            self._look(list(again))
        return wanted

    def _take(self, message: dict[str, Any]) -> list[str]:
        """Use one message; return the jobs whose status is to be read because their subscription stands now."""
        job_id = message["channel"].decode().removeprefix(keys.done(""))
        if message["type"] == "message" and job_id in self._waiting:
            self._resolve(job_id, JobStatus(message["data"].decode()))
        elif message["type"] == "subscribe" and job_id in self._waiting:
            return [job_id]
        return []

    def _look(self, job_ids: list[str]) -> None:
        for job_id, status in zip(job_ids, read_statuses(self._connection, job_ids), strict=True):
            if status is None or status in TERMINAL_STATUSES:
                self._resolve(job_id, status)

    def _resolve(self, job_id: str, status: JobStatus | None) -> None:
        with self._lock:
            futures = self._waiting.pop(job_id, [])
        resolve(futures, not_found(job_id) if status is None else status)


def resolve(futures: "Iterable[Future[JobStatus]]", end: JobStatus | Exception) -> None:
    """Tell those who wait of a job's end, or of why nothing more is told; not those who wait no longer."""
    for future in futures:
        if not future.set_running_or_notify_cancel():
            continue
        if isinstance(end, Exception):
            future.set_exception(end)
        else:
            future.set_result(end)
