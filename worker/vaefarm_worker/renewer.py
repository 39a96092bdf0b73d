"""`python -m vaefarm_worker.renewer`: the process beside a worker that renews its leases.

It is started before torch is imported, so a held GIL cannot starve it. It renews only while the worker moves on: not
while that is stopped, and not beyond the time that a decode may take, after which it ends the worker; nor for a worker
that holds jobs and says nothing for as long. When the pipe closes the worker is dead, and its leases are handed back at
once: what shared the device runs alone next time, what was alone on it has spent an attempt, everything else costs
nothing. The lease on the worker's device is kept, and given up, with them; a worker that stood still past it, and whose
device another has taken, is ended: it must not share it.

Lines on standard input, first a JSON object of `Terms`, then:

    + ID TOKEN    the worker holds a job            > SECONDS ID ...   the device decodes these, for so long at most
    - ID          it holds it no more               <                  the device is idle
    =             it waits for others, and moves on    ! JSON       it has that device, a DeviceHold
"""

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import redis

from vaefarm_shared import device_locks, keys, leases, rq_bridge
from vaefarm_shared.connection import connect
from vaefarm_shared.device_locks import DeviceHold
from vaefarm_shared.leases import Claim, How
from vaefarm_shared.logs import LogFormat, configure_logging
from vaefarm_shared.workers import note_death

logger = logging.getLogger(__name__)

#: Renewals within one lease: three may be lost.
RENEWALS: Final[int] = 4

#: Seconds for which a dead worker's leases are offered back while Redis is away; then they have ended by themselves.
HAND_BACK_SECONDS: Final[float] = 10.0

#: The exit code of a renewer that has ended its worker.
ENDED: Final[int] = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """What a renewer must know of its worker."""

    redis_url: str
    worker: str
    pid: int
    lease_seconds: float
    decode_timeout: float
    max_attempts: int
    log_format: LogFormat = LogFormat.TEXT
    #: What tells the worker from every other of its name, also in another container, where it may have the same pid.
    birth: str = ""

    def line(self) -> bytes:
        """As the first line of the pipe: no password shows in a process list."""
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(slots=True)
class Held:
    """What the worker holds and what its device does, as its lines tell. Seconds are of the monotonic clock."""

    #: How long a worker that holds jobs may say nothing, at least.
    allowed_seconds: float
    tokens: dict[str, str] = field(default_factory=dict)
    device: DeviceHold | None = None
    on_device: tuple[str, ...] = ()
    device_seconds: float = 0.0
    decoding_since: float = 0.0
    moved_at: float = field(default_factory=time.monotonic)

    def take(self, line: str) -> None:
        """Follow one line."""
        self.moved_at = time.monotonic()
        kind, *words = line.split()
        if kind == "!":
            self.device = DeviceHold(**json.loads(line[1:]))
        elif kind == "+":
            self.tokens[words[0]] = words[1]
        elif kind == "-":
            self.tokens.pop(words[0], None)
        elif kind == ">":
            self.on_device, self.device_seconds, self.decoding_since = tuple(words[1:]), float(words[0]), self.moved_at
        elif kind == "<":
            self.on_device = ()

    def hang(self) -> str | None:
        """What has taken too long, or None."""
        now = time.monotonic()
        if self.on_device and now - self.decoding_since > self.device_seconds:
            return f"its decode did not end within {self.device_seconds:.0f} seconds"
        if self.tokens and not self.on_device and now - self.moved_at > self.allowed_seconds:
            return f"its worker did nothing for {self.allowed_seconds:.0f} seconds"
        return None

    def owed(self) -> list[tuple[str, str, How]]:
        """Each job with its token and what it pays for the worker's death now."""
        on_device: How = "attempt" if len(self.on_device) == 1 else "alone"
        return [(one, token, on_device if one in self.on_device else "free") for one, token in self.tokens.items()]


class Renewer:
    """Renews, watches, and hands back."""

    def __init__(self, terms: Terms, connection: redis.Redis, end_worker: Callable[[], None]) -> None:
        self._terms = terms
        self._connection = connection
        self._end_worker = end_worker
        self.held = Held(terms.decode_timeout)
        #: Whether it has ended the worker.
        self.ended = False
        self._reason = f"its worker {terms.worker} ended"

    @property
    def period_seconds(self) -> float:
        """Seconds between two renewals."""
        return self._terms.lease_seconds / RENEWALS

    def renew(self) -> None:
        """One round: end a worker that hangs or has lost its device, else renew its leases unless it is stopped."""
        hang = self.held.hang()
        if hang is not None:
            self._end(f"hangs: {hang}", hang)
            return
        try:
            stopped = is_stopped(self._terms.pid)
            if not stopped:
                leases.renew(self._connection, list(self.held.tokens.items()), self._terms.lease_seconds)
            if self.held.device is not None:
                self._hold_on_to(self.held.device, stopped)
        except redis.RedisError as error:
            logger.warning("leases cannot be renewed: %s", error)
            # So the worker has a reason to stand still.
            self.held.moved_at = time.monotonic()

    def _hold_on_to(self, hold: DeviceHold, stopped: bool) -> None:
        """Renew the lease on the worker's device, of one that is stopped only look at it."""
        if stopped:
            other = device_locks.lost_to(self._connection, hold)
        else:
            other = device_locks.renew(self._connection, hold, self._terms.lease_seconds)
        if other is not None:
            self.held.device, self.held.on_device = None, ()
            lost = f"its worker lost device {hold.device} to worker {other}"
            self._end(f"lost device {hold.device} to worker {other}, as it stood still past its lease", lost)

    def _end(self, what: str, reason: str) -> None:
        if not self.ended:
            logger.error("worker %s %s; it is ended", self._terms.worker, what)
        self._reason, self.ended = reason, True
        self._end_worker()

    def free_device(self) -> None:
        """Let others take the worker's device."""
        if self.held.device is None:
            return
        try:
            device_locks.free(self._connection, self.held.device)
        except redis.RedisError as error:
            logger.warning("device %s is free once its lease ends: %s", self.held.device.device, error)

    def bury(self) -> None:
        """Take the worker off the lists of those that live: one of its name may start at once."""
        name = self._terms.worker
        try:
            listed = self._connection.get(keys.worker(name))
            # Not one of that name which a supervisor has started meanwhile.
            if listed is not None and json.loads(listed).get("birth") == self._terms.birth:
                self._connection.delete(keys.worker(name), rq_bridge.worker_key(name))
                note_death(self._connection, name)
        except redis.RedisError as error:
            logger.warning("worker %s stays listed for a while: %s", self._terms.worker, error)

    def hand_back(self) -> None:
        """Return every job that the worker held, what was on the device last."""
        owed = sorted(self.held.owed(), key=lambda one: one[2] != "free")
        claims: list[tuple[Claim, How]] = [(Claim(one, "", token, 0.0), how) for one, token, how in owed]
        which = {"job_ids": [claim.job_id for claim, _ in claims]}
        if not claims:
            return
        deadline = time.monotonic() + HAND_BACK_SECONDS
        while time.monotonic() < deadline:
            try:
                returned = leases.give_back(
                    self._connection,
                    claims,
                    self._terms.worker,
                    self._reason,
                    self._terms.max_attempts,
                    died=True,
                )
            except redis.RedisError as error:
                logger.warning(
                    "jobs of worker %s cannot be handed back yet: %s", self._terms.worker, error, extra=which
                )
                time.sleep(0.2)
            else:
                logger.warning(
                    "worker %s ended; %d of its jobs handed back", self._terms.worker, sum(returned), extra=which
                )
                return


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (SIGSTOP, Ctrl-Z, a frozen debugger)."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        if sys.platform == "linux":
            return False
    shown = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip().startswith("T")


def lines(descriptor: int, wait: Callable[[], float]) -> Iterable[str | None]:
    """Lines as they come; None whenever `wait()` seconds passed without one. Ends with the pipe."""
    rest = b""
    while True:
        if not select.select([descriptor], [], [], max(0.0, wait()))[0]:
            yield None
            continue
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in whole)


def main() -> None:
    """Serve one worker until its pipe closes."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    due = time.monotonic()
    feed = lines(sys.stdin.fileno(), lambda: due - time.monotonic())
    first = next((line for line in feed if line is not None), None)
    if first is None:
        return
    terms = Terms(**json.loads(first))
    configure_logging(log_format=LogFormat(terms.log_format))
    # A reply that takes longer than half a lease is too late for this renewal, and perhaps in time for the next.
    connection = connect(terms.redis_url, terms.lease_seconds / 2)
    renewer = Renewer(terms, connection, lambda: os.kill(terms.pid, signal.SIGKILL))
    for line in feed:
        if line is not None:
            renewer.held.take(line)
        if time.monotonic() < due:
            continue
        if os.getppid() == terms.pid:
            renewer.renew()
            if renewer.ended:
                break
            due = time.monotonic() + renewer.period_seconds
        elif line is None:
            # All that the worker wrote is read, and something that it started holds its end of the pipe.
            break
    renewer.free_device()
    renewer.hand_back()
    renewer.bury()
    if renewer.ended:
        sys.exit(ENDED)


if __name__ == "__main__":
    main()
