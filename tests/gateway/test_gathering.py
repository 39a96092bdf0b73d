"""Questions that are asked together."""

import asyncio
from collections.abc import Sequence

from vaefarm_producer.gateway.gathering import Gathering


async def test_what_comes_while_an_answer_is_awaited_travels_with_the_next() -> None:
    rounds: list[list[int]] = []
    go_on = asyncio.Event()

    async def double(questions: Sequence[int]) -> list[int]:
        rounds.append(list(questions))
        await go_on.wait()
        return [2 * one for one in questions]

    gathering = Gathering(double)
    first = asyncio.create_task(gathering.ask(0))
    while not rounds:
        await asyncio.sleep(0)
    others = [asyncio.create_task(gathering.ask(number)) for number in range(1, 5)]
    await asyncio.sleep(0)
    others[0].cancel()
    go_on.set()

    assert await asyncio.gather(first, *others[1:]) == [0, 4, 6, 8]
    assert rounds == [[0], [1, 2, 3, 4]]


async def test_an_error_is_told_to_all_who_asked_and_to_nobody_later() -> None:
    errors = [ValueError("away")]

    async def ask_all(questions: Sequence[int]) -> Sequence[int]:
        if errors:
            raise errors.pop()
        return questions

    gathering = Gathering(ask_all)
    told = await asyncio.gather(gathering.ask(1), gathering.ask(2), return_exceptions=True)
    assert [type(one) for one in told] == [ValueError, ValueError]
    assert await gathering.ask(3) == 3
