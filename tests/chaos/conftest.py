"""Fixtures of the tests of failure."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.arena import Arena, MakeArena
from tests.conftest import RedisServer

from vaefarm_shared.settings import Settings


@pytest.fixture
def own_server(server: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    """A redis-server that a test may restart, pause and fill; nothing acknowledged is lost when it is killed."""
    folder = tmp_path / "redis"
    folder.mkdir()
    options = ("--appendonly", "yes", "--appendfsync", "always", "--databases", "1000")
    own = RedisServer(server.binary, folder, options)
    own.start()
    yield own
    own.stop()


@pytest.fixture
def make_arena(own_server: RedisServer, tmp_path: Path) -> Iterator[MakeArena]:
    """Arenas on one server, each in a database of its own, so that they may be used at the same time."""
    made: list[Arena] = []
    numbers = count()

    def make(**changes: Any) -> Arena:
        number = next(numbers)
        # So many attempts that no fault of the tests' own uses them up.
        settings = Settings.from_env(submit_timeout=30.0, lease_seconds=6.0, max_attempts=20).model_copy(update=changes)
        url = f"redis://127.0.0.1:{own_server.port}/{number}"
        made.append(Arena(settings.at(url), tmp_path / f"arena-{number}"))
        return made[-1]

    yield make
    for arena in made:
        arena.close()


@pytest.fixture
def arena(make_arena: MakeArena) -> Arena:
    """One arena with the tests' settings."""
    return make_arena()
