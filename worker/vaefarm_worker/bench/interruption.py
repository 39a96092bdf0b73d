"""Ctrl-C and SIGTERM while something is measured."""

import signal
from types import FrameType, TracebackType
from typing import Any, Final

#: What ends a benchmark, and how its last line calls that.
SIGNALS: Final[dict[signal.Signals, str]] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interruption:
    """While it is entered, the first of the signals raises KeyboardInterrupt; a second one does what it did before.

    A signal that is ignored stays so, as a shell wants it for what runs behind it.
    """

    def __init__(self) -> None:
        """No signal has come yet."""
        self._signum: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        """Listen."""
        for signum in SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._before[signum] = signal.signal(signum, self._raise)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Listen no more."""
        self._restore()

    @property
    def how(self) -> str:
        """'interrupted' or 'terminated'."""
        return SIGNALS[self._signum or signal.SIGINT]

    @property
    def exit_code(self) -> int:
        """A shell's for a process that the signal ended: 130 or 143."""
        return 128 + (self._signum or signal.SIGINT)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come: Python drops what is raised as a tensor's finaliser runs."""
        if self._signum is not None:
            raise KeyboardInterrupt

    def _raise(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signal.Signals(signum)
        self._restore()
        raise KeyboardInterrupt

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()
