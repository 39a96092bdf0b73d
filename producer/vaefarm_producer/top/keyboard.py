"""Keys of a terminal as they are pressed."""

import os
import select
import sys
import time
from types import TracebackType
from typing import Any

try:
    import termios
    import tty
except ImportError:  # Windows has neither: Ctrl-C ends it all the same.
    termios = tty = None  # type: ignore[assignment]


class Keyboard:
    """Takes a terminal's keys one by one, without showing them, and gives it back as it was."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def __enter__(self) -> "Keyboard":
        if termios is not None and sys.stdin is not None and sys.stdin.isatty():
            self._descriptor = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            # What was typed meanwhile was for this, not for the shell.
            termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._before)

    def wait(self, seconds: float) -> str | None:
        """The keys that are pressed within so many seconds, '' for none; None once the terminal is gone."""
        if self._before is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return ""
        try:
            pressed = os.read(self._descriptor, 1024)
        except OSError:
            return None
        return pressed.decode("utf-8", "replace") or None
