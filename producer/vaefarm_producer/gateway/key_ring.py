"""The keys that a gateway knows just now: those of its file, which may change while it runs."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from vaefarm_shared.errors import ConfigurationError

from .access import Principal
from .key_file import hash_of, read_keys

logger = logging.getLogger(__name__)

#: Seconds between two looks at the file.
LOOK_SECONDS: Final[float] = 1.0


def is_same(before: Principal, after: Principal | None) -> bool:
    """Whether a key's holder may still see what it saw."""
    return after is not None and (before.name, before.is_admin) == (after.name, after.is_admin)


class KeyRing:
    """Principals by the hashes of their keys."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ConfigurationError for one without a key, or that is not what it should be."""
        self._path = path
        self._stamp = self._look()
        self._principals = self._read()
        if not self._principals:
            raise ConfigurationError(f"{path} has no key in it: `vaefarm keys add NAME --file {path}` makes one")
        self._requests: defaultdict[str, set[asyncio.Task[Any]]] = defaultdict(set)

    def find(self, key: str) -> Principal | None:
        """Who holds a key; None for one that nobody has.

        The time that this takes tells of the key's hash alone, which nobody can steer towards one that is known.
        """
        return self._principals.get(hash_of(key))

    @contextmanager
    def request(self, key: str) -> Iterator[None]:
        """While this lasts the running task is ended once the key is removed, be it a stream of hours."""
        digest, task = hash_of(key), asyncio.current_task()
        assert task is not None
        self._requests[digest].add(task)
        try:
            yield
        finally:
            self._requests[digest].discard(task)
            if not self._requests[digest]:
                del self._requests[digest]

    async def watch(self) -> None:
        """Look at the file again and again, until canceled; where it cannot be read the keys stay what they were."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            stamp = await asyncio.to_thread(self._look)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                principals = await asyncio.to_thread(self._read)
            except ConfigurationError as error:
                logger.error("the keys stay as they were: %s", error)
                continue
            self._change(principals)

    def _change(self, principals: dict[str, Principal]) -> None:
        """Go on with other keys, and end what those have running that are gone, or are somebody else's now."""
        gone = {digest for digest, one in self._principals.items() if not is_same(one, principals.get(digest))}
        self._principals = principals
        logger.info("%s has %d keys now; %d are gone, or changed", self._path, len(principals), len(gone))
        for digest in gone:
            for task in list(self._requests.get(digest, ())):
                task.cancel()

    def _read(self) -> dict[str, Principal]:
        return {entry.hash: entry.principal for entry in read_keys(self._path)}

    def _look(self) -> tuple[int, ...] | None:
        """What changes with the file; None where it is not there."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
