"""Faults at a chosen round trip to Redis: the process is killed or stopped, or the connection is cut.

They are hung on redis-py's connections from outside: the code under test knows nothing of them. A round trip is what
is sent at once: one command, or a pipeline with all that is in it.
"""

import json
import os
import random
import signal
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import redis
from redis.connection import AbstractConnection

from vaefarm_shared.scripts import script

#: Scripts of ours that change no job's state.
QUIET: Final[tuple[str, ...]] = ("renew", "expire_kept")

#: How a request that runs a script by its digest reads on the wire.
EVALSHA: Final[bytes] = b"\r\nEVALSHA\r\n"

Action = Literal["kill", "kill-host", "stop", "cut"]
Moment = Literal["before", "after"]


@dataclass(frozen=True)
class Fault:
    """What happens, and at which round trip."""

    action: Action
    #: Before the request is sent, or after the last of its replies has been received.
    moment: Moment
    #: The round trip, counted from 1 over those that `only` and `thread` choose.
    at: int
    #: "jobs": those that may change a job's state; "all"; or the name of a script of ours.
    only: str = "jobs"
    #: Only round trips of threads whose names begin so.
    thread: str = ""

    @property
    def notice(self) -> str:
        """What is written to standard error as it happens."""
        return f"fault: {self.action} {self.moment} {self.at}"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Fault":
        return cls(**json.loads(text))


@dataclass
class Trip:
    """A round trip under way on one connection."""

    replies_left: int
    fault: Fault | None
    is_cut: bool


class FaultyConnections:
    """Every connection of this process from `install` on."""

    def __init__(self, fault: Fault | None, cut_rate: float = 0.0, seed: int = 0) -> None:
        """With `cut_rate`, that share of round trips loses its reply besides."""
        self._fault = fault
        self._cut_rate = cut_rate
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._counted = 0
        self._send = AbstractConnection.send_packed_command
        self._read = AbstractConnection.read_response

    def install(self) -> None:
        """Stand between redis-py and its sockets."""
        faulty = self

        def send(connection: Any, command: Any, check_health: bool = True) -> None:
            faulty.send(connection, command, check_health)

        def read(connection: Any, *args: Any, **kwargs: Any) -> Any:
            return faulty.read(connection, *args, **kwargs)

        AbstractConnection.send_packed_command = send  # type: ignore[method-assign]
        AbstractConnection.read_response = read  # type: ignore[method-assign, assignment]

    def send(self, connection: Any, command: Any, check_health: bool) -> None:
        """Count a request, and send it unless its fault comes first."""
        packed = b"".join(part.encode() if isinstance(part, str) else part for part in as_parts(command))
        trip = self._begin(packed)
        if trip.fault is not None and trip.fault.moment == "before":
            self._act(trip.fault, connection)
        # A connection's handshake goes through here too, and is done when this returns.
        self._send(connection, command, check_health)
        connection.chaos_trip = trip

    def read(self, connection: Any, *args: Any, **kwargs: Any) -> Any:
        """Receive a reply; after the last of a request comes its fault."""
        trip: Trip | None = getattr(connection, "chaos_trip", None)
        try:
            return self._read(connection, *args, **kwargs)
        finally:
            if trip is not None:
                self._received(connection, trip)

    def _received(self, connection: Any, trip: Trip) -> None:
        trip.replies_left -= 1
        if trip.replies_left > 0:
            return
        connection.chaos_trip = None
        if trip.is_cut:
            act("cut", connection)
        if trip.fault is not None and trip.fault.moment == "after":
            self._act(trip.fault, connection)

    def _act(self, fault: Fault, connection: Any) -> None:
        os.write(2, f"{fault.notice}\n".encode())
        act(fault.action, connection)

    def _begin(self, packed: bytes) -> Trip:
        with self._lock:
            is_cut = self._random.random() < self._cut_rate
            return Trip(count_commands(packed), self._due(packed), is_cut)

    def _due(self, packed: bytes) -> Fault | None:
        fault = self._fault
        if fault is None or not threading.current_thread().name.startswith(fault.thread):
            return None
        if fault.only == "jobs":
            chosen = EVALSHA in packed and not any(digest(name) in packed for name in QUIET)
        else:
            chosen = fault.only == "all" or digest(fault.only) in packed
        self._counted += chosen
        return fault if chosen and self._counted == fault.at else None


def act(action: Action, connection: Any) -> None:
    """Do it; a cut raises what redis-py raises."""
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill-host":
            for child in children(os.getpid()):
                os.kill(child, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            # To this thread, which then goes no step further; all others stop with it.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        case "cut":
            connection.disconnect()
            raise redis.ConnectionError("the connection is cut")


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still are."""
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in listed for child in path.read_text().split()]


def as_parts(command: Any) -> list[Any]:
    """What `send_packed_command` takes, as a list."""
    return [command] if isinstance(command, str | bytes) else list(command)


def digest(name: str) -> bytes:
    """The digest by which a script of ours is called."""
    return script(name).digest.encode()


def count_commands(packed: bytes) -> int:
    """How many commands, and so replies, a packed request has."""
    place = commands = 0
    while place < len(packed):
        words, place = _number(packed, place)
        for _ in range(words):
            size, start = _number(packed, place)
            place = start + size + 2
        commands += 1
    return commands


def _number(packed: bytes, place: int) -> tuple[int, int]:
    """The number of a RESP header, `*3\\r\\n` or `$5\\r\\n`, and the place after it."""
    end = packed.index(b"\r\n", place)
    return int(packed[place + 1 : end]), end + 2
