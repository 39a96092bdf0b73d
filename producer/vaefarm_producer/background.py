"""An event loop on a thread of its own, for code that is not asynchronous."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Seconds that closing may take.
CLOSE_SECONDS: Final[float] = 5.0


class Background:
    """Runs coroutines for whoever waits for them on other threads. The thread begins with the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        #: Loops of the parents of a forked process: were one collected here, the parent's would lose its sockets.
        self._inherited: list[asyncio.AbstractEventLoop] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, running; a forked process begins its own."""
        with self._lock:
            if self._loop is not None and self._pid == os.getpid():
                return self._loop
            if self._loop is not None:
                self._inherited.append(self._loop)
            self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
            self._thread = threading.Thread(target=_run, args=(self._loop,), name="vaefarm-http", daemon=True)
            self._thread.start()
            return self._loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns, or raises; not for the loop's own thread."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C ends the request too.
            future.cancel()
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a last coroutine and stop the loop, where this process began it. May be repeated."""
        with self._lock:
            (loop, self._loop), thread = (self._loop, None), self._thread
        if loop is None or thread is None or self._pid != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(last(), loop).add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        # A farm that nobody holds any more may be collected on any thread, this one too.
        if thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
