"""Lua scripts, run by their digest and loaded when the server does not know them.

A line `--@ NAME` stands for `lua/NAME.lua`, a line `--@ rq_NAME` for a step of RQ's (`rq_lua`). Keys are made from ids
inside the scripts: the farm's Redis is one server, not a cluster.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, Final

import redis
from redis.client import Pipeline

from . import rq_lua

INCLUDE: Final = "--@ "

Argument = str | bytes | int | float


class Script:
    """One script of `lua/`."""

    def __init__(self, name: str) -> None:
        self.text = _text(name)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def run(self, connection: redis.Redis, *arguments: Argument) -> Any:
        """Run it once."""
        # Not through a pipeline, whose machinery a single call has no use for.
        try:
            return connection.evalsha(self.digest, 0, *arguments)
        except redis.exceptions.NoScriptError:
            connection.script_load(self.text)
            return connection.evalsha(self.digest, 0, *arguments)

    def queue(self, pipe: Pipeline, *arguments: Argument) -> None:
        """Put a call on a pipeline."""
        pipe.evalsha(self.digest, 0, *arguments)

    def execute(self, pipe: Pipeline, fill: Callable[[Pipeline], None]) -> list[Any]:
        """Send a pipeline that `fill` fills with calls of this script; load the script where the server knows it not.

        Then the whole pipeline is sent again, so its other commands must be ones that may be repeated.
        """
        fill(pipe)
        try:
            return pipe.execute()
        except redis.exceptions.NoScriptError:
            pipe.reset()
            pipe.script_load(self.text)
            fill(pipe)
            return pipe.execute()[1:]


def _text(name: str) -> str:
    lines = files("vaefarm_shared").joinpath("lua", f"{name}.lua").read_text().splitlines()
    return "\n".join(_included(line.removeprefix(INCLUDE)) if line.startswith(INCLUDE) else line for line in lines)


def _included(name: str) -> str:
    return rq_lua.render(name.removeprefix("rq_")) if name.startswith("rq_") else _text(name)


@cache
def script(name: str) -> Script:
    """The script of that name, read once."""
    return Script(name)
