"""Blobs as objects of an S3 bucket, by s3fs, which is imported only where a farm has one.

Credentials, region and endpoint are botocore's to find, in AWS_* variables, a profile or a role; nothing here keeps
or shows them. A put is one request, so that an object is whole or absent.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

from .blob_names import NAME_PATTERN, check_name, check_size
from .errors import FarmError, InvalidStore, StoreAway
from .s3_errors import Gone, meaning

if TYPE_CHECKING:
    from s3fs import S3FileSystem

T = TypeVar("T")

#: Requests at a time: enough for the latents of a batch, whose round trips then pass together.
MOST_REQUESTS: Final[int] = 16

#: Seconds for a connection, for what comes next on it, and for a request as a whole but for its bytes.
CONNECT_SECONDS: Final[float] = 5.0
REPLY_SECONDS: Final[float] = 15.0
REQUEST_SECONDS: Final[float] = 30.0

#: Bytes a second below which a store counts as away.
SLOWEST_BYTES: Final[int] = 256 * 1024

#: Times that a request is sent before it failed: those who ask repeat it as long as they may.
MOST_TRIES: Final[int] = 2

#: Keys of one page of a listing, S3's own most.
PAGE_KEYS: Final[int] = 1000

#: Seconds in which connections are closed.
CLOSE_SECONDS: Final[float] = 5.0

#: What the keys of `check` begin with.
PROBES: Final[str] = "check/"


class S3Blobs:
    """Blobs in a bucket; any thread may call.

    Every method may raise StoreAway, after which the same may be tried again, and InvalidStore.
    """

    scheme: Final = "s3"

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None = None) -> None:
        """`prefix`: what every key begins with. `endpoint_url`: other than the one that botocore finds.

        Nothing is sent before the first call. Raises InvalidStore where s3fs is missing.
        """
        if find_spec("s3fs") is None:
            raise InvalidStore("VAEFARM_STORE=s3://... needs s3fs: pip install 'vaefarm[s3]'")
        self.bucket, self.prefix = bucket, prefix
        self._endpoint_url = endpoint_url
        self._opened: tuple[int, S3FileSystem, asyncio.Semaphore] | None = None
        self._running: set[asyncio.Future[Any]] = set()
        self._opening = threading.Lock()

    def put(self, name: str, data: bytes) -> None:
        """Write a blob so that it is whole or absent."""
        self.put_many([(name, data)])

    def put_many(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Write blobs, several at a time; raises the first error once all have ended."""
        self._each([partial(self._put, self._key(name), data) for name, data in blobs])

    def get(self, name: str, max_bytes: int) -> bytes | None:
        """Read a blob; None when there is none. Raises FarmError above `max_bytes`, of which nothing is read."""
        (found,) = self.get_many([(name, max_bytes)])
        if isinstance(found, Exception):
            raise found
        return found

    def get_many(self, wanted: Sequence[tuple[str, int]]) -> "list[bytes | Exception | None]":
        """Read blobs by (name, most bytes), several at a time: for each its bytes, None when it is gone, or the error
        that is its own."""
        return list(self._each([partial(self._read, name, max_bytes) for name, max_bytes in wanted]))

    def delete_many(self, names: Iterable[str]) -> None:
        """Remove blobs, those that are there, several at a time."""
        self._each([partial(self._delete, self._key(name)) for name in names])

    def old_pages(self, older_than: float) -> Iterator[list[str]]:
        """Names of blobs written before `older_than` (Unix seconds), of a page of keys at a time; leftovers of `check`
        are removed."""
        more: dict[str, str] = {}
        while True:
            (page,) = self._each([partial(self._list, PAGE_KEYS, **more)])
            listed = page.get("Contents", ())
            keys = [one["Key"] for one in listed if one["LastModified"].timestamp() < older_than]
            self._each([partial(self._delete, key) for key in keys if key.startswith(f"{self.prefix}{PROBES}")])
            names = [key.removeprefix(self.prefix).replace("/", ":", 1) for key in keys]
            yield [name for name in names if NAME_PATTERN.fullmatch(name)]
            if not (token := page.get("NextContinuationToken")):
                return
            more = {"ContinuationToken": token}

    def link(self, name: str, seconds: int, method: str, content_type: str, disposition: str) -> str:
        """Where anyone may GET (or HEAD) a blob for so many seconds, under those headers."""
        headers = {"ResponseContentType": content_type, "ResponseContentDisposition": disposition}
        (url,) = self._each([partial(self._sign, self._key(name), seconds, f"{method.lower()}_object", headers)])
        return url

    def check(self) -> None:
        """Return if blobs can be written, read, listed and removed here."""
        try:
            self._each([self._probe])
        except InvalidStore as error:
            raise InvalidStore(f"VAEFARM_STORE=s3://{self.bucket}/{self.prefix.rstrip('/')}: {error}") from None

    def close(self) -> None:
        """End what is on its way, to whose callers the store is away, and close the connections; another call opens
        some anew."""
        opened, self._opened = self._opened, None
        if opened is None or opened[0] != os.getpid():
            return
        from fsspec.asyn import sync

        fs = opened[1]
        sync(fs.loop, self._end, fs, timeout=CLOSE_SECONDS)

    async def _end(self, fs: "S3FileSystem") -> None:
        for task in self._running:
            task.cancel()
        if (client := getattr(fs, "_s3creator", None)) is not None:
            await client.__aexit__(None, None, None)

    def _key(self, name: str) -> str:
        check_name(name)
        return self.prefix + name.replace(":", "/", 1)

    def _filesystem(self) -> "tuple[S3FileSystem, asyncio.Semaphore]":
        """The client of this process: one that was made before a fork is of no use after it."""
        with self._opening:
            if self._opened is None or self._opened[0] != os.getpid():
                from s3fs import S3FileSystem

                config = {
                    "connect_timeout": CONNECT_SECONDS,
                    "read_timeout": REPLY_SECONDS,
                    "max_pool_connections": MOST_REQUESTS,
                    "retries": {"total_max_attempts": MOST_TRIES, "mode": "standard"},
                    # Links are signed so as well.
                    "signature_version": "s3v4",
                }
                fs = S3FileSystem(
                    endpoint_url=self._endpoint_url,
                    config_kwargs=config,
                    use_listings_cache=False,
                    skip_instance_cache=True,
                )
                fs.retries = 1
                self._opened = os.getpid(), fs, asyncio.Semaphore(MOST_REQUESTS)
            return self._opened[1:]

    def _each(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Have s3fs' loop run these at the same time, and wait for all. Raises the error of the first that failed."""
        from fsspec.asyn import sync

        async def run() -> list[T]:
            tasks = [asyncio.ensure_future(call()) for call in calls]
            self._running.update(tasks)
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
                return [task.result() for task in tasks]
            except asyncio.CancelledError:
                raise StoreAway("the store was closed before it answered") from None
            finally:
                self._running.difference_update(tasks)

        found: list[T] = sync(self._filesystem()[0].loop, run)
        return found

    @asynccontextmanager
    async def _asking(self, operation: str, seconds: float) -> "AsyncIterator[S3FileSystem]":
        """A turn among the requests, of so many seconds; what goes wrong in it becomes an error of ours."""
        fs, slots = self._filesystem()
        async with slots:
            try:
                async with asyncio.timeout(seconds):
                    yield fs
            except FarmError:
                raise
            except Exception as error:
                raise meaning(error, operation) from None

    async def _request(self, operation: str, seconds: float = REQUEST_SECONDS, **arguments: Any) -> dict[str, Any]:
        async with self._asking(operation, seconds) as fs:
            reply: dict[str, Any] = await fs._call_s3(operation, Bucket=self.bucket, **arguments)
        return reply

    async def _put(self, key: str, data: bytes) -> None:
        await self._request("put_object", REQUEST_SECONDS + len(data) / SLOWEST_BYTES, Key=key, Body=data)

    async def _delete(self, key: str) -> None:
        with suppress(Gone):
            await self._request("delete_object", Key=key)

    async def _probe(self) -> None:
        key = f"{self.prefix}{PROBES}{uuid4().hex}"
        await self._put(key, b"vaefarm")
        try:
            await self._get(key, 100)
            await self._list(1)
        finally:
            await self._delete(key)

    async def _sign(self, key: str, seconds: int, method: str, headers: dict[str, str]) -> str:
        fs, _ = self._filesystem()
        try:
            return str(await fs._url(f"{self.bucket}/{key}", seconds, method, **headers))
        except Exception as error:
            raise meaning(error, "signing") from None

    async def _list(self, keys: int, **more: Any) -> dict[str, Any]:
        return await self._request("list_objects_v2", Prefix=self.prefix, MaxKeys=keys, **more)

    async def _read(self, name: str, max_bytes: int) -> bytes | FarmError | None:
        try:
            return await self._get(self._key(name), max_bytes)
        except FarmError as error:
            return error

    async def _get(self, key: str, max_bytes: int) -> bytes | None:
        """The bytes of an object, None where there is none. Raises FarmError above `max_bytes`."""
        try:
            async with self._asking("get_object", REQUEST_SECONDS + max_bytes / SLOWEST_BYTES) as fs:
                # One byte more than is allowed tells that there are more.
                found = await fs._call_s3("get_object", Bucket=self.bucket, Key=key, Range=f"bytes=0-{max_bytes}")
                try:
                    check_size(key.removeprefix(self.prefix), _whole_size(found), max_bytes)
                    data = bytes(await found["Body"].read())
                finally:
                    found["Body"].close()
        except Gone:
            return None
        if len(data) != found["ContentLength"]:
            raise StoreAway("the store broke off in the middle of an object")
        return data or None


def _whole_size(reply: dict[str, Any]) -> int:
    """Bytes of the whole object, of which a reply may bring a part."""
    total = str(reply.get("ContentRange", "")).rpartition("/")[2]
    return int(total) if total.isdecimal() else int(reply["ContentLength"])
