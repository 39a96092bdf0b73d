"""`manifest.jsonl`: what became of each picture of a batch, one JSON object a line, appended as it happens."""

import fcntl
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from vaefarm_shared.errors import InvalidOption

#: The file's name in the folder of the pictures.
MANIFEST_NAME: Final[str] = "manifest.jsonl"


class Manifest:
    """The manifest of a folder, held by one process at a time."""

    def __init__(self, out: Path) -> None:
        """Open it, and read what an earlier run wrote. Raises InvalidOption for a folder that another run holds."""
        self.path = out / MANIFEST_NAME
        self._lock = threading.Lock()
        #: For each picture that was made, the digest of the options it was made with.
        self.made: dict[str, str] = {}
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise InvalidOption(f"{self.path}: {error.strerror}; expected a file that can be written") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise InvalidOption(
                f"another vaefarm submit writes into {out}; wait for it, or name another --out"
            ) from error
        self._read()

    def _read(self) -> None:
        is_whole = True
        with self.path.open("rb") as lines:
            for line in lines:
                is_whole = line.endswith(b"\n")
                try:
                    entry = json.loads(line)
                    if entry["status"] in ("finished", "present"):
                        self.made[entry["output"]] = entry["options"]
                except (ValueError, KeyError, TypeError):
                    # Torn by a crash: its picture is there or not, which is what counts.
                    continue
        if not is_whole:
            os.write(self._file, b"\n")

    def append(self, entries: Iterable[dict[str, Any]]) -> None:
        """Add lines, in one write. From any thread."""
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        with self._lock:
            os.write(self._file, lines.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)
