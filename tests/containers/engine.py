"""Images, containers and the compose file, by Docker or by what stands in for it.

`CONTAINERS` names a folder with commands `engine` (sets a machine up, and is podman afterwards), `build` and `compose`;
without it they are Docker's.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]

#: Seconds that an image may take to build, and any other command.
BUILD_SECONDS: Final[float] = 600.0
COMMAND_SECONDS: Final[float] = 240.0

#: Where pip's own constraints of a machine lie, which its settings name.
PIP_CONSTRAINTS: Final = Path("/etc/xdg/pip/constraints.txt")


class Engine:
    """One container engine."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.name = "docker" if folder is None else "podman"
        self.compose_command = ["docker", "compose"] if folder is None else [str(folder / "compose")]

    @classmethod
    def find(cls) -> "Engine | None":
        """What `CONTAINERS` names, else Docker; None where there is neither."""
        if named := os.environ.get("CONTAINERS"):
            return cls(Path(named).resolve())
        return cls(None) if shutil.which("docker") else None

    def set_up(self) -> None:
        """Make the engine ready."""
        if self._folder is not None:
            run([str(self._folder / "engine")], BUILD_SECONDS)

    def build(self, target: str, tag: str, arguments: Mapping[str, str]) -> None:
        """Build a target of the Dockerfile."""
        options = ["--target", target, *(f"--build-arg={name}={value}" for name, value in arguments.items())]
        if self._folder is None:
            run(["docker", "build", "--tag", tag, *options, str(ROOT)], BUILD_SECONDS)
            return
        if PIP_CONSTRAINTS.is_file():
            options += ["--volume", f"{PIP_CONSTRAINTS}:{PIP_CONSTRAINTS}:ro"]
        run([str(self._folder / "build"), tag, str(ROOT), *options], BUILD_SECONDS)

    def run(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """What a command of the engine prints; its standard error as well where it fails."""
        return run([self.name, *arguments], seconds)

    def outcome(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> "subprocess.CompletedProcess[str]":
        """How a command of the engine ended, whatever it was."""
        return subprocess.run(
            [self.name, *arguments], capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT
        )

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container or image."""
        return dict(json.loads(self.run("inspect", name))[0])

    def health_check(self, image: str) -> list[str]:
        """The command by which an image tells whether it is well."""
        known = self.inspect(image)
        return list((known.get("Healthcheck") or known["Config"]["Healthcheck"])["Test"])

    def is_running(self, container: str) -> bool:
        """Whether a container runs."""
        return bool(self.inspect(container)["State"]["Running"])

    def is_well(self, container: str) -> bool:
        """Whether a container's own health check passes."""
        if self.name == "docker":
            return bool(self.inspect(container)["State"]["Health"]["Status"] == "healthy")
        return self.outcome("healthcheck", "run", container).returncode == 0

    def kill(self, container: str) -> None:
        """End a container's first process as a crash would: to `docker kill` engines say that somebody wanted it."""
        os.kill(int(self.inspect(container)["State"]["Pid"]), signal.SIGKILL)


class Compose:
    """The compose file as one project."""

    def __init__(self, engine: Engine, project: str, environment: Mapping[str, str]) -> None:
        self._engine = engine
        self._command = [*engine.compose_command, "-p", project]
        self.environment = dict(environment)
        self.project = project

    def __call__(self, *arguments: str) -> str:
        """Run one of its commands."""
        return run([*self._command, *arguments], COMMAND_SECONDS, self.environment)

    def container(self, service: str, number: int = 1) -> str:
        """The name of a service's container."""
        return ("-" if self._engine.name == "docker" else "_").join([self.project, service, str(number)])


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> str:
    """Run a command in the repository's root; what it prints. Fails with all that it said."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
