"""Lua scripts, run by their digest and loaded when the server does not know them."""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import redis

Arguments = Sequence[str | bytes | int | float]


class Script:
    """One script of `lua/`."""

    def __init__(self, name: str) -> None:
        self.text = files("vaefarm_shared").joinpath("lua", f"{name}.lua").read_text()
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def run(self, connection: redis.Redis, key_names: Sequence[str], arguments: Arguments) -> Any:
        """Run it once."""
        return self.run_many(connection, [(key_names, arguments)])[0]

    def run_many(self, connection: redis.Redis, calls: Sequence[tuple[Sequence[str], Arguments]]) -> list[Any]:
        """Run it for each (keys, arguments) in one round trip; raise the first error.

        After an error some calls may have run: every script is written so that repeating a call is harmless.
        """
        try:
            return self._run_pipeline(connection, calls)
        except redis.exceptions.NoScriptError:
            connection.script_load(self.text)
            return self._run_pipeline(connection, calls)

    def _run_pipeline(self, connection: redis.Redis, calls: Sequence[tuple[Sequence[str], Arguments]]) -> list[Any]:
        with connection.pipeline(transaction=False) as pipe:
            for key_names, arguments in calls:
                pipe.evalsha(self.digest, len(key_names), *key_names, *arguments)
            return pipe.execute()


@cache
def script(name: str) -> Script:
    """The script of that name, read once."""
    return Script(name)
