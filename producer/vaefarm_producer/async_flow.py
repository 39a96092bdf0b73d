"""Going through `Results` from asyncio, on a thread of its own: what it waits for holds up no event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, cast

from vaefarm_shared.errors import FarmError

from .bulk import Results
from .result import Result

#: In place of StopIteration, which no future can hold.
OVER: Final = object()


class Bridge(Iterator[Any]):
    """An asynchronous iterable for a thread beside its event loop."""

    def __init__(self, source: AsyncIterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._source, self._loop = aiter(source), loop
        self._step: Future[Any] | None = None
        self._is_closed = False

    def __next__(self) -> Any:
        if self._is_closed:
            raise StopIteration
        self._step = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        if self._is_closed:
            self._step.cancel()
        item = self._step.result()
        if item is OVER:
            raise StopIteration
        return item

    async def _next(self) -> Any:
        return await anext(self._source, OVER)

    def close(self) -> None:
        """End a step that is waited for, and have no other."""
        self._is_closed = True
        if self._step is not None:
            self._step.cancel()


async def walk(
    source: Iterable[Any] | AsyncIterable[Any], begin: Callable[[Iterable[Any]], Results[Any]]
) -> AsyncGenerator[Result | FarmError, None]:
    """What `begin` gives of the source, step by step. A source that is no asynchronous one is read on the thread."""
    loop = asyncio.get_running_loop()
    bridge = Bridge(source, loop) if isinstance(source, AsyncIterable) else None
    thread = ThreadPoolExecutor(1, "vaefarm-map")
    results: Results[Any] | None = None
    try:
        results = await loop.run_in_executor(thread, begin, bridge or cast(Iterable[Any], source))
        step: Callable[[], Any] = partial(next, results, OVER)
        while (one := await loop.run_in_executor(thread, step)) is not OVER:
            yield one
    finally:
        if bridge is not None:
            bridge.close()
        if results is not None:
            results.stop()
            # Behind the step that is just under way; also where this task is canceled again.
            await asyncio.shield(loop.run_in_executor(thread, results.close))
        thread.shutdown(wait=False)
