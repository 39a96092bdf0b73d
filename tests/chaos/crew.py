"""Worker processes of a test: started with a fault or without, killed, stopped, awaited."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from vaefarm_shared.settings import Settings

from .faults import Fault, children

REPOSITORY: Final[Path] = Path(__file__).parents[2]


@dataclass(eq=False)
class Member:
    """One worker process."""

    name: str
    process: "subprocess.Popen[bytes]"
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def was_killed(self) -> bool:
        return self.process.poll() == -signal.SIGKILL

    @property
    def is_stopped(self) -> bool:
        """Whether SIGSTOP has stopped it."""
        if not self.is_alive:
            return False
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"

    def signal(self, number: int) -> None:
        if self.is_alive:
            self.process.send_signal(number)

    def stop(self) -> None:
        """Ask it to stop, as a supervisor does."""
        self.signal(signal.SIGTERM)

    def kill_host(self) -> None:
        """End it with its children, as when the machine goes."""
        # Stopped first, so that it starts no child in place of one that is killed.
        self.process.send_signal(signal.SIGSTOP)
        for child in children(self.process.pid):
            os.kill(child, signal.SIGKILL)
        self.kill()

    def kill(self) -> None:
        """End the worker's process alone; its children see that."""
        self.process.kill()
        self.process.wait()


class Crew:
    """The workers of one farm."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("VAEFARM_")}
        self._environment |= dict(variables(settings))
        self._folder = folder
        self.members: list[Member] = []

    def start(
        self,
        *arguments: str,
        fault: Fault | None = None,
        env: dict[str, str] | None = None,
        name: str | None = None,
    ) -> Member:
        """Start a worker and return at once; see `tests.chaos.worker` for the arguments."""
        number = len(self.members)
        name = name or f"worker-{number}"
        log_path = self._folder / f"{number}-{name}.log"
        command = [sys.executable, "-m", "tests.chaos.worker", "--name", name, *arguments]
        if fault is not None:
            command += ["--fault", fault.to_json()]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment | (env or {}),
                cwd=REPOSITORY,
            )
        member = Member(name, process, log_path)
        self.members.append(member)
        return member

    def tend(self, *arguments: str, size: int = 1, env: dict[str, str] | None = None) -> None:
        """Start workers as a supervisor does, until `size` of them live."""
        for _ in range(size - sum(member.is_alive for member in self.members)):
            self.start(*arguments, env=env)

    def close(self) -> None:
        """End every process that is left, and its children."""
        for member in self.members:
            if member.is_alive:
                member.kill_host()


def variables(settings: Settings) -> Iterator[tuple[str, str]]:
    """Settings as the environment that says the same."""
    for name, value in settings:
        if value is not None and value != Settings.model_fields[name].default:
            plain = value.get_secret_value() if isinstance(value, SecretStr) else value
            yield f"VAEFARM_{name.upper()}", str(plain)
