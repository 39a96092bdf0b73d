"""Latents and pictures by name, in Redis or in a folder that producers and workers share.

A blob's reference is `redis:NAME` or `file:NAME`, so that a reader needs no setting to know where it lies. The
blob is always written before the job or the record that names it; a file that no record names is swept.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import redis

from . import keys
from .errors import ConfigurationError, FarmError

#: Names of blobs: kind, job id, then what tells attempts apart.
NAME_PATTERN: Final[re.Pattern[str]] = re.compile(r"(latent|image):[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")

#: Seconds that a file may lie unnamed: its job may be on the way to Redis.
UNNAMED_SECONDS: Final[float] = 3600.0


def latent_name(job_id: str, request_hash: str) -> str:
    """The name of a job's latent; other content under the same id has another name."""
    return f"latent:{job_id}.{request_hash}"


def image_name(job_id: str, token: str, index: int) -> str:
    """The name of a job's picture; each lease has names of its own, so a late worker overwrites nothing."""
    return f"image:{job_id}.{token}.{index}"


class FileBlobs:
    """Blobs as files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where the blob of that name lies, in one of 256 folders by its job's id.

        Raises:
            FarmError: the name could lead out of the folder.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise FarmError(f"{name!r} is no blob name")
        job_id = job_of(name)
        return self.root / f"{sum(job_id.encode()) % 256:02x}" / name.replace(":", "-", 1)

    def put(self, name: str, data: bytes) -> None:
        """Write a blob so that it is whole or absent, and on disk when this returns."""
        path = self.path(name)
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

    def get(self, name: str, max_bytes: int) -> bytes | None:
        """Read a blob; None when there is none. Raises FarmError above `max_bytes`."""
        try:
            path = self.path(name)
            check_size(name, path.stat().st_size, max_bytes)
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Remove a blob, if it is there."""
        self.path(name).unlink(missing_ok=True)

    def old_names(self, older_than: float) -> Iterator[str]:
        """Names of blobs written before `older_than` (Unix seconds); leftovers of writers are removed."""
        for path in self.root.glob("??/*"):
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


class BlobStore:
    """Where a farm's latents and pictures lie: Redis, and files for those above a threshold."""

    def __init__(self, connection: redis.Redis, url: str = "redis://", threshold: int = 64 * 1024) -> None:
        """Raises ConfigurationError unless `url` is `redis://` or `file:///DIR`."""
        self.connection = connection
        self.threshold = threshold
        self.files: FileBlobs | None = None
        parts = urlsplit(url)
        if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
            self.files = FileBlobs(Path(unquote(parts.path)))
        elif parts.scheme != "redis":
            raise ConfigurationError(f"VAEFARM_BLOBS={url!r}: expected redis:// or file:///DIR")

    def goes_to_files(self, size: int) -> bool:
        """True when a blob of `size` bytes is kept as a file."""
        return self.files is not None and size > self.threshold

    def reference(self, name: str, size: int) -> str:
        """The reference that a blob of that name and size gets."""
        return f"{'file' if self.goes_to_files(size) else 'redis'}:{name}"

    def put(self, name: str, data: bytes, life_seconds: int) -> str:
        """Store a blob and return its reference."""
        if self.files is not None and self.goes_to_files(len(data)):
            self.files.put(name, data)
        else:
            self.connection.set(keys.blob(name), data, ex=life_seconds)
        return self.reference(name, len(data))

    def get(self, reference: str, max_bytes: int) -> bytes | None:
        """Read a blob; None when it is gone.

        Raises:
            FarmError: it has more than `max_bytes`: nothing is read.
            ConfigurationError: it lies in files, and this process was told of no folder.
        """
        scheme, _, name = reference.partition(":")
        if scheme == "file":
            return self._folder(reference).get(name, max_bytes)
        # One byte more than is allowed tells that there are more, and costs no round trip of its own.
        data: bytes = self.connection.getrange(keys.blob(name), 0, max_bytes)  # type: ignore[assignment]
        check_size(name, len(data), max_bytes)
        return data or None

    def get_many(self, wanted: Sequence[tuple[str, int]]) -> "list[bytes | Exception | None]":
        """Read blobs by (reference, most bytes), those in Redis in one round trip.

        Returns:
            For each its bytes, one more than allowed at most; None when it is gone; the error that is its own.
        """
        with self.connection.pipeline(transaction=False) as pipe:
            for reference, max_bytes in wanted:
                if reference.startswith("redis:"):
                    pipe.getrange(keys.blob(reference.removeprefix("redis:")), 0, max_bytes)
            replies = iter(pipe.execute(raise_on_error=False))
        return [
            self._reply(next(replies)) if reference.startswith("redis:") else self._read(reference, max_bytes)
            for reference, max_bytes in wanted
        ]

    @staticmethod
    def _reply(reply: "bytes | Exception") -> "bytes | Exception | None":
        if isinstance(reply, Exception) and not isinstance(reply, redis.ResponseError):
            raise reply
        return reply or None

    def _read(self, reference: str, max_bytes: int) -> "bytes | Exception | None":
        try:
            return self.get(reference, max_bytes)
        except (FarmError, OSError) as error:
            return error

    def delete(self, reference: str) -> None:
        """Remove a blob, if it is there and this process can reach it."""
        scheme, _, name = reference.partition(":")
        if scheme == "redis":
            self.connection.delete(keys.blob(name))
        else:
            self.delete_file(reference)

    def delete_file(self, reference: str) -> None:
        """Remove a blob that lies in a file; one in Redis goes in the transaction that ends its job."""
        scheme, _, name = reference.partition(":")
        if scheme == "file" and self.files is not None:
            self.files.delete(name)

    def sweep(self, is_named: Callable[[list[str]], list[bool]], now: float | None = None) -> int:
        """Remove files that no record names, an hour old at least; return how many.

        Files have no life of their own: this is how the pictures of expired jobs go.
        """
        if self.files is None:
            return 0
        names = list(self.files.old_names((now or time.time()) - UNNAMED_SECONDS))
        removed = 0
        for start in range(0, len(names), 500):
            part = names[start : start + 500]
            for name, named in zip(part, is_named([f"file:{name}" for name in part]), strict=True):
                if not named:
                    self.files.delete(name)
                    removed += 1
        return removed

    def _folder(self, reference: str) -> FileBlobs:
        if self.files is None:
            raise ConfigurationError(
                f"{reference} lies in a folder that this process was not told of: set VAEFARM_BLOBS=file:///DIR"
                " to the folder that the workers use"
            )
        return self.files


def job_of(name: str) -> str:
    """The job id inside a blob's name."""
    return name.partition(":")[2].partition(".")[0]


def check_size(name: str, size: int, max_bytes: int) -> None:
    """Raise FarmError when a blob is larger than its job allows."""
    if size > max_bytes:
        raise FarmError(f"blob {name} has {size} bytes; its job allows {max_bytes}")
