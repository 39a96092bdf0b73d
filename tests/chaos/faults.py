"""Faults at a chosen round trip to Redis: the process is killed or stopped, or the connection is cut.

They are hung on redis-py's connections from outside: the code under test knows nothing of them. A round trip is what
is sent at once: one command, or a pipeline with all that is in it.
"""

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import redis
from redis.connection import AbstractConnection

from vaefarm_shared.scripts import script

#: Commands that change nothing which outlives their connection.
QUIET: Final = frozenset(
    b"AUTH CLIENT COMMAND CONFIG EXISTS GET HELLO HGET HGETALL HMGET HSTRLEN INFO LLEN LRANGE MGET PING PSUBSCRIBE"
    b" PUNSUBSCRIBE SCAN SCRIPT SELECT SISMEMBER SMEMBERS STRLEN SUBSCRIBE TIME TTL UNSUBSCRIBE UNWATCH WATCH XLEN"
    b" ZCARD ZRANGE ZRANGEBYSCORE ZSCORE".split()
)

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
    #: "changes": those that may change state; "all"; or the name of a script of ours.
    only: str = "changes"
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
        AbstractConnection.read_response = read  # type: ignore[method-assign]

    def send(self, connection: Any, command: Any, check_health: bool) -> None:
        """Count a request, and send it unless its fault comes first."""
        packed = b"".join(part.encode() if isinstance(part, str) else part for part in as_parts(command))
        names = list(command_names(packed))
        trip = self._begin(packed, names)
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

    def _begin(self, packed: bytes, names: list[bytes]) -> Trip:
        changes = not QUIET.issuperset(names)
        with self._lock:
            is_cut = changes and self._random.random() < self._cut_rate
            return Trip(len(names), self._due(packed, changes), is_cut)

    def _due(self, packed: bytes, changes: bool) -> Fault | None:
        fault = self._fault
        if fault is None or not threading.current_thread().name.startswith(fault.thread):
            return None
        if fault.only == "changes":
            chosen = changes
        else:
            chosen = fault.only == "all" or script(fault.only).digest.encode() in packed
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


def command_names(packed: bytes) -> Iterator[bytes]:
    """The name of each command in a packed request."""
    place = 0
    while place < len(packed):
        words, place = _number(packed, place)
        for word in range(words):
            size, start = _number(packed, place)
            if word == 0:
                yield packed[start : start + size].upper()
            place = start + size + 2


def _number(packed: bytes, place: int) -> tuple[int, int]:
    """The number of a RESP header, `*3\\r\\n` or `$5\\r\\n`, and the place after it."""
    end = packed.index(b"\r\n", place)
    return int(packed[place + 1 : end]), end + 2
