"""Blobs as files below one folder that producers and workers share."""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final
from uuid import uuid4

from .blob_names import NAME_PATTERN, check_name, check_size, job_of
from .errors import FarmError, InvalidStore, StoreAway

#: Errors of a disk or of a network that may pass; others stay until somebody mends them.
PASSING: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.ENFILE}
    | {errno.ECONNRESET, errno.ECONNREFUSED, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMFILE}
)

#: Names of one page of a walk.
PAGE_NAMES: Final[int] = 500


class FileBlobs:
    """Blobs as files; every method may raise OSError."""

    scheme: Final = "file"

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where the blob of that name lies, in one of 256 folders by its job's id.

        Raises:
            FarmError: the name could lead out of the folder.
        """
        check_name(name)
        return self.root / f"{sum(job_of(name).encode()) % 256:02x}" / name.replace(":", "-", 1)

    def put(self, name: str, data: bytes) -> None:
        """Write a blob so that it is whole or absent, and on disk when this returns."""
        self._write(self.path(name), data)

    def put_many(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Write blobs, one after the other: a disk gains nothing from several at a time."""
        for name, data in blobs:
            self.put(name, data)

    def get(self, name: str, max_bytes: int) -> bytes | None:
        """Read a blob; None when there is none. Raises FarmError above `max_bytes`."""
        try:
            path = self.path(name)
            check_size(name, path.stat().st_size, max_bytes)
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def get_many(self, wanted: Sequence[tuple[str, int]]) -> "list[bytes | Exception | None]":
        """Read blobs by (name, most bytes): for each its bytes, None when it is gone, or the error that is its own."""
        return [self._read(name, max_bytes) for name, max_bytes in wanted]

    def _read(self, name: str, max_bytes: int) -> "bytes | Exception | None":
        try:
            return self.get(name, max_bytes)
        except (FarmError, OSError) as error:
            return error

    def delete_many(self, names: Iterable[str]) -> None:
        """Remove blobs, those that are there."""
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def old_pages(self, older_than: float) -> Iterator[list[str]]:
        """Names of blobs written before `older_than` (Unix seconds), some at a time; writers' leftovers are removed."""
        for folder in self.root.glob("??"):
            names = self._old_names(folder, older_than)
            while page := list(islice(names, PAGE_NAMES)):
                yield page

    @staticmethod
    def _old_names(folder: Path, older_than: float) -> Iterator[str]:
        for path in folder.glob("*"):
            try:
                if path.stat().st_mtime >= older_than:
                    continue
            except FileNotFoundError:
                continue
            name = path.name.replace("-", ":", 1)
            if path.suffix == ".part":
                path.unlink(missing_ok=True)
            elif NAME_PATTERN.fullmatch(name):
                yield name

    def check(self) -> None:
        """Return if files can be written and removed here. Raises InvalidStore, StoreAway for what may pass."""
        probe = self.root / "00" / f".{uuid4().hex}.part"
        try:
            self._write(probe, b"vaefarm")
            probe.unlink()
        except OSError as error:
            raise file_error(error, f"VAEFARM_STORE={self.root.as_uri()} cannot be written") from error

    def close(self) -> None:
        """Nothing is open."""

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{uuid4().hex}.part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def file_error(error: OSError, what: str) -> FarmError:
    """What a folder's error means to whoever waits for it."""
    kind = StoreAway if error.errno in PASSING else InvalidStore
    return kind(f"{what}: {error.strerror or error}")
