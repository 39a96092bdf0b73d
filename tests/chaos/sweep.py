"""A sweep: the same fault at the first command, the second, ... until the worker no longer gets so far."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from .arena import Arena, MakeArena

#: Points tried at the same time, each in an arena of its own: mostly they wait.
AT_ONCE: Final[int] = 4

#: Points after which a sweep must have come to its end.
MOST: Final[int] = 120


def sweep(make_arena: MakeArena, is_reached: Callable[[Arena, int], bool]) -> int:
    """Call `is_reached(arena, n)` for n = 1, 2, ... until it says no; return how many points were reached."""

    def point(at: int) -> bool:
        arena = make_arena()
        try:
            return is_reached(arena, at)
        finally:
            arena.close()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for first in range(1, MOST, AT_ONCE):
            reached = list(threads.map(point, range(first, first + AT_ONCE)))
            if not all(reached):
                return first - 1 + reached.index(False)
    raise AssertionError(f"the worker does something at each of {MOST} commands: the sweep has no end")
