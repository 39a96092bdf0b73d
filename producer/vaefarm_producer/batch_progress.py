"""How far a batch has come: a bar on a terminal, lines now and then elsewhere."""

import sys
from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: Seconds between two lines.
LINE_SECONDS: Final[float] = 10.0


class BatchProgress:
    """Counts what was done, on standard error."""

    def __init__(self, total: int, present: int, is_quiet: bool, wonder: Callable[[], str | None]) -> None:
        """`present` of `total` files were done before; nothing is said where `is_quiet`, but on a terminal.

        Args:
            wonder: What may be the matter when nothing ends, if anything; called on a thread.
        """
        self.total, self.present = total, present
        self.done = self.failed = 0
        self._began = monotonic()
        self._wonder, self._has_wondered = wonder, False
        self._over = Event()
        self._speaker = Thread(target=self._say_now_and_then, name="vaefarm-progress", daemon=True)
        self._is_quiet = is_quiet
        console = Console(stderr=True)
        columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        # What goes elsewhere than the terminal must not be taken for its text.
        shown = Progress(*columns, TimeElapsedColumn(), console=console, redirect_stdout=sys.stdout.isatty())
        self._bar = shown if console.is_terminal else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total, completed=present)

    @property
    def rate(self) -> float:
        """Files a second since the beginning."""
        return (self.done + self.failed) / max(monotonic() - self._began, 1e-9)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return monotonic() - self._began

    def advance(self, *, failed: bool = False) -> None:
        """One more file is done, or has failed."""
        self.done, self.failed = self.done + (not failed), self.failed + failed
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=self.text())

    def say(self, line: str) -> None:
        """A line for people, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(f"vaefarm: {line}", markup=False, highlight=False)
        elif not self._is_quiet:
            print(f"vaefarm: {line}", file=sys.stderr, flush=True)

    def _say_now_and_then(self) -> None:
        """How far it has come, also while nothing ends; and once, if nothing does, what may be the matter."""
        while not self._over.wait(LINE_SECONDS):
            if not self.done + self.failed and not self._has_wondered:
                self._has_wondered = True
                if (trouble := self._wonder()) is not None:
                    self.say(trouble)
            if self._bar is None:
                self.say(f"{self.present + self.done + self.failed} of {self.total}, {self.text()}")

    def text(self) -> str:
        """The rate, the time left, and how many have failed."""
        left = self.total - self.present - self.done - self.failed
        time_left = timedelta(seconds=round(left / self.rate)) if self.rate > 0 else "?"
        return f"{self.rate:.1f}/s, {time_left} left" + (f", {self.failed} failed" if self.failed else "")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        self._speaker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        # It may be asking a farm that is away.
        self._speaker.join(1.0)
        if self._bar is not None:
            self._bar.stop()
