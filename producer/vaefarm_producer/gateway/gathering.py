"""Questions that come one by one and are asked together: those that come meanwhile travel with the next."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")

#: Questions that are asked at once.
MOST: Final[int] = 200


class Gathering(Generic[Question, Answer]):
    """Asks for many with the calls of one. Of one event loop."""

    def __init__(self, ask_all: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]]) -> None:
        """`ask_all` gives an answer for each question, in order; what it raises all of them are told."""
        self._ask_all = ask_all
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """The answer to one question. Raises what `ask_all` raises."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._asking is None:
            self._asking = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._ask(asked)
        finally:
            self._asking = None

    async def _ask(self, asked: list[tuple[Question, "asyncio.Future[Answer]"]]) -> None:
        try:
            answers = await self._ask_all([question for question, _ in asked])
        except Exception as error:
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(asked, answers, strict=True):
            if not future.done():
                future.set_result(answer)
