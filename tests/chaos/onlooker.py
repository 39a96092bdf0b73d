"""Somebody who runs `rq info` again and again."""

import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from typing import Any


class Onlooker(AbstractContextManager["Onlooker"]):
    """Runs the command in a loop for as long as the block does."""

    def __init__(self, url: str, pause_seconds: float = 0.1) -> None:
        self._command = [sys.executable, "-m", "rq.cli", "info", "--url", url]
        self._pause_seconds = pause_seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onlooker")
        #: Runs that ended well.
        self.looks = 0

    def __enter__(self) -> "Onlooker":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._pause_seconds):
            run = subprocess.run(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            # Not while Redis is away.
            self.looks += run.returncode == 0
