"""Commands as they are typed."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tests.conftest import url_variable

from vaefarm_producer.cli import app
from vaefarm_shared.cli_errors import run


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Done]


@pytest.fixture
def vaefarm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command as its console script does, in this process: a Python of its own for each would take seconds."""

    def call(*arguments: object, url: str, env: dict[str, str] | None = None) -> Done:
        with monkeypatch.context() as patch:
            for name, value in {url_variable(url): url, **(env or {})}.items():
                patch.setenv(name, value)
            patch.setattr("sys.argv", ["vaefarm", *map(str, arguments)])
            capsys.readouterr()
            return Done(run(app), *capsys.readouterr())

    return call
