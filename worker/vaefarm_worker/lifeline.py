"""The worker's end of the pipe to its renewer, the process that keeps its leases on jobs and device alive."""

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Final
from uuid import uuid4

from vaefarm_shared.cli_errors import EXIT_FAILED
from vaefarm_shared.device_locks import DeviceHold
from vaefarm_shared.leases import Claim
from vaefarm_shared.settings import Settings

from .renewer import ENDED, Terms

logger = logging.getLogger(__name__)

#: Seconds that a renewer may take to hand back what is left and end.
END_SECONDS: Final[float] = 15.0

#: Bytes of lines that may wait for the renewer: some ten thousand jobs.
PIPE_BYTES: Final[int] = 1 << 20


class Lifeline:
    """Tells the renewer what the worker holds. Should the renewer die, another takes its place and learns it anew."""

    def __init__(self, settings: Settings, worker: str) -> None:
        """Start the renewer: before torch is imported, so that it is there when the first job is."""
        #: What tells this worker from every other, whatever its name.
        self.birth = uuid4().hex
        self._terms = Terms(
            settings.redis_url.get_secret_value(),
            worker,
            os.getpid(),
            settings.lease_seconds,
            settings.decode_timeout,
            settings.max_attempts,
            settings.log_format,
            self.birth,
        )
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        self._hold: DeviceHold | None = None
        self._device = "<\n"
        self._process = self._spawn()

    def hold(self, claims: Sequence[Claim]) -> None:
        """Have the leases of these renewed from now on."""
        with self._lock:
            self._held.update((one.job_id, one.token) for one in claims)
            self._send("".join(f"+ {one.job_id} {one.token}\n" for one in claims))

    def drop(self, claims: Sequence[Claim]) -> None:
        """Have them renewed no more: they were settled, handed back or lost."""
        with self._lock:
            gone = [one for one in claims if self._held.get(one.job_id) == one.token]
            for one in gone:
                del self._held[one.job_id]
            self._send("".join(f"- {one.job_id}\n" for one in gone))

    def on_device(self, job_ids: Iterable[str], seconds: float) -> None:
        """Say that the device decodes these from now on, for at most so many seconds."""
        with self._lock:
            self._device = f"> {seconds} {' '.join(job_ids)}\n"
            self._send(self._device)

    def have(self, hold: DeviceHold) -> None:
        """Have the lease on the worker's device renewed from now on, and the device freed at the end."""
        with self._lock:
            self._hold = hold
            self._send(hold_line(hold))

    def idle(self) -> None:
        """Say that the device has ended what it had."""
        with self._lock:
            self._device = "<\n"
            self._send(self._device)

    def moves(self) -> None:
        """Say that the worker moves on, though nothing that it holds has ended."""
        with self._lock:
            self._send("=\n")

    def held(self) -> dict[str, str]:
        """The tokens of what is held, by job id."""
        with self._lock:
            return dict(self._held)

    def check(self) -> None:
        """Start another renewer where the last one has died; end where it has ended this worker, and could not."""
        with self._lock:
            if self._process.poll() == ENDED:
                # A process that is the first of its container cannot be killed from within.
                logging.shutdown()
                os._exit(EXIT_FAILED)
            if self._process.poll() is not None:
                logger.warning("the renewer of leases ended with %s; another starts", self._process.returncode)
                self._close_pipe()
                self._process = self._spawn()

    def close(self) -> None:
        """End the renewer; what is still held is handed back by it."""
        with self._lock:
            self._close_pipe()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        # A session of its own: Ctrl-C reaches the worker, which tells the renewer by closing the pipe.
        process = subprocess.Popen(
            [sys.executable, "-m", "vaefarm_worker.renewer"], stdin=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            # The device's thread never waits for a renewer that waits for Redis.
            with suppress(OSError):
                fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        known = "".join(f"+ {job_id} {token}\n" for job_id, token in self._held.items())
        device = "" if self._hold is None else hold_line(self._hold)
        self._write(process, self._terms.line() + (known + device + self._device).encode())
        return process

    def _close_pipe(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _send(self, lines: str) -> None:
        if lines:
            self._write(self._process, lines.encode())

    @staticmethod
    def _write(process: "subprocess.Popen[bytes]", data: bytes) -> None:
        assert process.stdin is not None
        # A renewer that is gone is replaced by the next `check`, which tells all that is held.
        with suppress(OSError, ValueError):
            process.stdin.write(data)
            process.stdin.flush()


def hold_line(hold: DeviceHold) -> str:
    """The line that tells a renewer of the worker's device."""
    return f"! {json.dumps(asdict(hold))}\n"
