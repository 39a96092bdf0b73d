"""How one endpoint does: its circuit, what came of its last requests, and how long they took.

The latency that chooses between endpoints is Finagle's "peak EWMA": it rises to a slow reply at once and falls from it
slowly, with time, so that an endpoint which nobody asks any more is tried again.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, cast

from pybreaker import CircuitBreaker

from vaefarm_shared.endpoints import Circuit, EndpointState

from .pacing import Pacing

#: Requests whose outcomes and latencies are remembered.
REMEMBERED: Final[int] = 100

#: Told of a change of a circuit: from, to, and why.
OnChange = Callable[[Circuit, Circuit, str], None]


class Health:
    """The health of one endpoint. It is written by one thread, and read by any."""

    def __init__(
        self, pacing: Pacing, on_change: OnChange | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pacing = pacing
        self._on_change = on_change
        self._clock = clock
        self._lock = threading.Lock()
        self._breaker = CircuitBreaker(
            fail_max=pacing.failures_to_open,
            reset_timeout=pacing.first_probe,
            throw_new_error_on_trip=False,
        )
        self._outcomes: deque[bool] = deque(maxlen=REMEMBERED)
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._peak_seconds: float | None = None
        self._peak_at = 0.0
        self._resting_until = 0.0
        #: Requests that are out now.
        self.in_flight = 0
        self.succeeded_count = 0
        self.failed_count = 0
        self.last_error = ""

    @property
    def circuit(self) -> Circuit:
        """Whether it is asked."""
        return cast(Circuit, self._breaker.current_state)

    @property
    def rest_seconds(self) -> float:
        """How long it is still left alone, as it asked for; 0 where it is not."""
        return max(0.0, self._resting_until - self._clock())

    @property
    def can_be_asked(self) -> bool:
        """Whether its circuit is closed and it does not rest."""
        return self.circuit == "closed" and not self.rest_seconds

    @property
    def success_rate(self) -> float:
        """In (0, 1]: of the last requests; 1 where there were none. One success more than there were is counted."""
        with self._lock:
            return (sum(self._outcomes) + 1) / (len(self._outcomes) + 1)

    @property
    def peak_seconds(self) -> float | None:
        """The latency as the last picture left it; None while there is none."""
        return self._peak_seconds

    @property
    def faded_seconds(self) -> float | None:
        """The same as it has fallen since."""
        with self._lock:
            return None if self._peak_seconds is None else self._peak_seconds * self._weight()

    def percentile(self, percent: int, least: int = 1) -> float | None:
        """The latency that so many of the last pictures kept below; None while fewer than `least` are known."""
        with self._lock:
            known = sorted(self._latencies)
        if len(known) < max(1, least):
            return None
        return known[min(len(known) - 1, math.ceil(percent / 100 * len(known)) - 1)]

    def succeeded(self, seconds: float) -> None:
        """Count a picture that took so long."""
        with self._lock:
            self._outcomes.append(True)
            self._latencies.append(seconds)
            weight = 0.0 if self._peak_seconds is None else self._weight()
            fallen = weight * (self._peak_seconds or 0.0) + (1 - weight) * seconds
            self._peak_seconds, self._peak_at = max(seconds, fallen), self._clock()
            self.succeeded_count += 1
        if self.circuit == "closed":
            self._change(partial(self._breaker.call, _succeed))

    def failed(self, error: Exception, *, fatal: bool = False) -> None:
        """Count a request that gave no picture for the endpoint's sake.

        Args:
            fatal: Open the circuit at once.
        """
        with self._lock:
            self._outcomes.append(False)
            self.failed_count += 1
        self.last_error = str(error)
        if self.circuit == "closed":
            act = self._breaker.open if fatal else partial(self._breaker.call, partial(_fail, error))
            self._change(act, reason=self.last_error)

    def put_off(self, error: Exception) -> None:
        """Note a request that was asked to come later, which is no failure."""
        self.last_error = str(error)

    def rest(self, seconds: float) -> None:
        """Leave it alone for so long, an hour at most."""
        until = self._clock() + min(seconds, self._pacing.longest_rest)
        self._resting_until = max(self._resting_until, until)

    def plan_probe(self, seconds: float) -> None:
        """Say when a circuit that is open is tried, from now."""
        self._breaker.reset_timeout = seconds

    def half_open(self) -> None:
        """Let a known latent through."""
        self._change(self._breaker.half_open, reason="a known latent tries it")

    def probed(self, error: Exception | None) -> None:
        """Count what came of a known latent: it closes a circuit that is half-open, or opens one that is not open."""
        if error is not None:
            self.last_error = str(error)
        if self.circuit == "open":
            return
        if error is not None:
            self._change(self._breaker.open, reason=self.last_error)
        else:
            self._change(partial(self._breaker.call, _succeed), reason="it decodes a known latent")

    def state(self, vae: str, name: str, url: str, concurrency: int) -> EndpointState:
        """What a worker tells of it."""
        rest = self.rest_seconds
        with self._lock:
            failed, remembered = self._outcomes.count(False), len(self._outcomes)
        return EndpointState(
            vae=vae,
            name=name,
            url=url,
            state=self.circuit,
            resting_until=time.time() + rest if rest else 0.0,
            in_flight=self.in_flight,
            concurrency=concurrency,
            succeeded=self.succeeded_count,
            failed=self.failed_count,
            error_rate=failed / remembered if remembered else 0.0,
            latency_p50_seconds=self.percentile(50),
            latency_p95_seconds=self.percentile(95),
            last_error=self.last_error,
        )

    def _weight(self) -> float:
        """What of the latency is left."""
        return math.exp(-(self._clock() - self._peak_at) / self._pacing.latency_decay)

    def _change(self, act: Callable[[], object], reason: str = "") -> None:
        """Have the breaker count, or change; tell of what it changed to."""
        old = self.circuit
        with suppress(Exception):
            # It raises what it is told of.
            act()
        # Not by its listeners, which hear of a change before it is made.
        if self._on_change is not None and self.circuit != old:
            self._on_change(old, self.circuit, reason)


def _succeed() -> None:
    pass


def _fail(error: Exception) -> None:
    raise error
