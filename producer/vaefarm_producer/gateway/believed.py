"""What is asked at most once in a while, by one request at a time, however many want to know."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Believed(Generic[T]):
    """An answer, and for how long it is believed."""

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._found: tuple[float, T] | None = None

    async def get(self) -> T:
        """The answer, not older than that. Raises what asking raises, which is asked again the next time."""
        async with self._lock:
            if self._found is None or time.monotonic() - self._found[0] >= self._seconds:
                answer = await self._ask()
                self._found = time.monotonic(), answer
            return self._found[1]
