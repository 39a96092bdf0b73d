"""Child processes that end with their parent."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from vaefarm_shared.errors import ConfigurationError

#: prctl(2): the signal that a child gets when its parent dies.
PR_SET_PDEATHSIG = 1


def spawn(
    command: Sequence[str], env: Mapping[str, str], output: IO[bytes] | int | None = None
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own: Ctrl-C reaches the parent alone, which ends its children in order."""
    # prepared before the fork: looking a library up between fork and exec is not safe
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_parent() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        command,
        env=dict(env),
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def end(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a child to end; after `seconds` make it."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    except KeyboardInterrupt:
        child.kill()
        raise


def worker_command(vaes: str | None, device: str, weights: Path | None = None) -> list[str]:
    """The command that starts a worker with this Python, which decodes these VAEs, or those of a folder of weights,
    itself, or none.

    Raises ConfigurationError where what it needs is not installed.
    """
    command = [sys.executable, "-m", "vaefarm_worker"]
    if vaes is None and weights is None:
        return command
    if find_spec("torch") is None or find_spec("diffusers") is None:
        raise ConfigurationError("a worker on this machine needs torch and diffusers: pip install 'vaefarm[worker]'")
    command += ["--device", device]
    if weights is not None:
        command += ["--weights", str(weights)]
    return command if vaes is None else [*command, "--vaes", vaes]


def worker_folder(name: str) -> Path:
    """A data folder that ships with the worker's package, found without importing it."""
    spec = find_spec("vaefarm_worker")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("the worker's package is not installed: pip install 'vaefarm[worker]'")
    return Path(spec.submodule_search_locations[0]) / name
