"""Waits of a process that does not serve yet: SIGTERM and Ctrl-C end them, and the process with exit code 0."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible_sleep() -> Iterator[Callable[[float], None]]:
    """Give a `sleep` that ends, and with it the process, when a signal asks for it.

    Raises:
        SystemExit: a signal came; the code is 0.
    """
    asked = threading.Event()

    def sleep(seconds: float) -> None:
        if asked.wait(seconds):
            raise SystemExit(0)

    # Signals are the main thread's.
    listens = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGTERM, signal.SIGINT) if listens else ()
    before = {signum: signal.signal(signum, lambda *_: asked.set()) for signum in signals}
    try:
        yield sleep
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if asked.is_set():
        raise SystemExit(0)
