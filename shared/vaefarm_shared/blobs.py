"""Latents and pictures by name, in Redis, and outside of it those above a threshold: in a folder or in S3.

A blob's reference is `redis:NAME`, `file:NAME` or `s3:NAME`, so that a reader knows where it lies. The blob is always
written before the job or the record that names it; one outside of Redis that no record names is swept.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import redis

from . import keys
from .blob_names import check_size
from .errors import ConfigurationError, FarmError
from .file_blobs import FileBlobs
from .job import MAX_REDIS_BYTES
from .s3_blobs import S3Blobs
from .settings import Settings
from .store_url import read_store_url

#: Where blobs lie, by the schemes of their references.
SCHEMES: Final = ("redis", FileBlobs.scheme, S3Blobs.scheme)

#: Seconds that a blob outside of Redis may lie unnamed: its job may be on the way to Redis.
UNNAMED_SECONDS: Final[float] = 3600.0


def open_outside(url: str) -> FileBlobs | S3Blobs | None:
    """The store outside of Redis that VAEFARM_STORE names, if any. Raises InvalidStore."""
    place = read_store_url(url)
    if place.folder is not None:
        return FileBlobs(place.folder)
    return S3Blobs(place.bucket, place.prefix) if place.bucket else None


def check_store(settings: Settings) -> None:
    """Return if a farm can work with the store outside of Redis, if it has one.

    Raises:
        InvalidStore: somebody must mend something.
        StoreAway: it does not answer, or has no room just now.
    """
    outside = open_outside(settings.store)
    if outside is not None:
        try:
            outside.check()
        finally:
            outside.close()


class BlobStore:
    """Where a farm's latents and pictures lie."""

    def __init__(self, connection: redis.Redis, url: str = "redis://", threshold: int = 64 * 1024) -> None:
        """Raises InvalidStore unless `url` is one that `store_url` reads, and its library is there."""
        self.connection = connection
        self.threshold = threshold
        self.outside = open_outside(url)

    def goes_outside(self, size: int) -> bool:
        """True when a blob of `size` bytes is kept outside of Redis."""
        return self.outside is not None and size > self.threshold

    def takes(self, size: int) -> bool:
        """Whether a blob of `size` bytes can be kept: Redis is given none above MAX_REDIS_BYTES."""
        return size <= MAX_REDIS_BYTES or self.goes_outside(size)

    def reference(self, name: str, size: int) -> str:
        """The reference that a blob of that name and size gets."""
        scheme = self.outside.scheme if self.outside is not None and self.goes_outside(size) else "redis"
        return f"{scheme}:{name}"

    def put(self, name: str, data: bytes, life_seconds: int) -> str:
        """Store a blob and return its reference."""
        if self.outside is not None and self.goes_outside(len(data)):
            self.outside.put(name, data)
        else:
            self.connection.set(keys.blob(name), data, ex=life_seconds)
        return self.reference(name, len(data))

    def get(self, reference: str, max_bytes: int) -> bytes | None:
        """Read a blob; None when it is gone.

        Raises:
            FarmError: it has more than `max_bytes`: nothing is read.
            ConfigurationError: it lies outside of Redis, and this process was told of no such store.
        """
        scheme, _, name = reference.partition(":")
        if scheme != "redis":
            return self._outside_of(reference).get(name, max_bytes)
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
            replies = iter([self._reply(one) for one in pipe.execute(raise_on_error=False)])
        found = iter(self._read_outside([one for one in wanted if not one[0].startswith("redis:")]))
        return [next(replies) if reference.startswith("redis:") else next(found) for reference, _ in wanted]

    @staticmethod
    def _reply(reply: "bytes | Exception") -> "bytes | Exception | None":
        if isinstance(reply, Exception) and not isinstance(reply, redis.ResponseError):
            raise reply
        return reply or None

    def _read_outside(self, wanted: Sequence[tuple[str, int]]) -> "Sequence[bytes | Exception | None]":
        errors: dict[str, Exception] = {}
        for reference, _ in wanted:
            try:
                self._outside_of(reference)
            except FarmError as error:
                errors[reference] = error
        there = [(reference.partition(":")[2], most) for reference, most in wanted if reference not in errors]
        found = iter(self.outside.get_many(there) if self.outside is not None and there else ())
        return [errors[reference] if reference in errors else next(found) for reference, _ in wanted]

    def delete(self, reference: str) -> None:
        """Remove a blob, if it is there and this process can reach it."""
        scheme, _, name = reference.partition(":")
        if scheme == "redis":
            self.connection.delete(keys.blob(name))
        else:
            self.delete_outside([reference])

    def delete_outside(self, references: Iterable[str]) -> None:
        """Remove blobs that lie outside of Redis; one in Redis goes in the transaction that ends its job."""
        if self.outside is not None:
            split = [reference.partition(":") for reference in references]
            self.outside.delete_many([name for scheme, _, name in split if scheme == self.outside.scheme])

    def sweep(
        self,
        is_named: Callable[[list[str]], list[bool]],
        now: float,
        is_over: Callable[[], bool] = lambda: False,
    ) -> int:
        """Remove blobs outside of Redis that no record names, an hour old at least; return how many.

        They have no life of their own: this is how the pictures of expired jobs go. Ends early once `is_over`.
        `now`: Unix seconds by Redis' clock.
        """
        if self.outside is None:
            return 0
        removed = 0
        for page in self.outside.old_pages(now - UNNAMED_SECONDS):
            if is_over():
                break
            verdicts = is_named([f"{self.outside.scheme}:{name}" for name in page]) if page else []
            unnamed = [name for name, named in zip(page, verdicts, strict=True) if not named]
            self.outside.delete_many(unnamed)
            removed += len(unnamed)
        return removed

    def close(self) -> None:
        """Close the connections to the store outside of Redis."""
        if self.outside is not None:
            self.outside.close()

    def _outside_of(self, reference: str) -> FileBlobs | S3Blobs:
        scheme = reference.partition(":")[0]
        if self.outside is None or self.outside.scheme != scheme:
            lies, url = ("a bucket", "s3://BUCKET/PREFIX") if scheme == "s3" else ("a folder", "file:///DIR")
            raise ConfigurationError(
                f"{reference} lies in {lies} that this process was not told of: set VAEFARM_STORE={url}"
                " to the one that the workers use"
            )
        return self.outside
