"""Keeping child processes running: one that dies is started again, ever later while it lives no minute."""

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event
from typing import Final

import typer

from vaefarm_shared.cli_errors import EXIT_USAGE
from vaefarm_shared.errors import ConfigurationError

from .processes import end, spawn

logger = logging.getLogger(__name__)

#: Seconds between two looks at the children.
LOOK_SECONDS: Final[float] = 0.25

#: A child that ends sooner than this after its first start is not started again: its message says why.
FIRST_LIFE_SECONDS: Final[float] = 60.0

#: Seconds before a child that died is started again; doubled each time it lives no minute.
RESTART_SECONDS: Final[tuple[float, float]] = (1.0, 60.0)

#: Seconds that a child may take to finish what it has in hand.
DRAIN_SECONDS: Final[float] = 60.0


@dataclass(slots=True)
class Child:
    """One process, and the ones that follow it."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _born: float = field(default=0.0, init=False)
    _first: bool = field(default=True, init=False)
    _wait_seconds: float = field(default=RESTART_SECONDS[0], init=False)
    _due: float = field(default=0.0, init=False)

    def tend(self) -> None:
        """Start it when it is time to. Raises ConfigurationError, or Exit, when it could not start at all."""
        if self._process is None:
            if time.monotonic() >= self._due:
                self._process, self._born = spawn(self.command, self.environment), time.monotonic()
        elif (status := self._process.poll()) is not None:
            self._process = None
            self._bury(status, time.monotonic() - self._born)

    def _bury(self, status: int, lived: float) -> None:
        if self._first and lived < FIRST_LIFE_SECONDS and status == EXIT_USAGE:
            # It has said what is wrong, in one line.
            raise typer.Exit(EXIT_USAGE)
        if self._first and lived < FIRST_LIFE_SECONDS and status > 0:
            raise ConfigurationError(f"the {self.name} could not start (exit {status}); its message is above")
        self._first = False
        short = lived <= FIRST_LIFE_SECONDS
        self._wait_seconds = min(2 * self._wait_seconds, RESTART_SECONDS[1]) if short else RESTART_SECONDS[0]
        self._due = time.monotonic() + self._wait_seconds
        logger.warning(
            "the %s ended with %s after %.0f s; another starts in %.0f s", self.name, status, lived, self._wait_seconds
        )

    def end(self) -> None:
        """Let it finish what it has in hand."""
        if self._process is not None:
            end(self._process, DRAIN_SECONDS)


def supervise(children: Sequence[Child], check: Callable[[], None], stopping: Event) -> None:
    """Keep children running until `stopping`, then end them, the last first.

    Raises:
        ConfigurationError: one of them could not start at all; or what `check`, called at each look, raises.
        Exit: one of them found its configuration wrong, and has said so.
    """
    with ExitStack() as stack:
        for child in children:
            stack.callback(child.end)
        while not stopping.is_set():
            check()
            for child in children:
                child.tend()
            stopping.wait(LOOK_SECONDS)
