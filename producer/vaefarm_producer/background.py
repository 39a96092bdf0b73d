"""An event loop on a thread of its own, for code that is not asynchronous."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Runs coroutines for whoever waits for them on other threads. The thread begins with the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
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
            threading.Thread(target=self._loop.run_forever, name="vaefarm-http", daemon=True).start()
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

    def close(self) -> None:
        """Stop the loop, if this process began it."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._pid == os.getpid():
            loop.call_soon_threadsafe(loop.stop)
