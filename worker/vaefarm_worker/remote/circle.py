"""The endpoints of one VAE, as they stand together."""

import asyncio
import math
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from vaefarm_shared.errors import EndpointsAway

from .choosing import UNKNOWN_SECONDS, choose
from .endpoint import Endpoint
from .pacing import Pacing

#: How much too early a wait may end.
TIMER_SECONDS: Final[float] = 1e-3


class Circle:
    """The endpoints of one VAE. Coroutines are of one event loop; the rest may be read by any thread."""

    def __init__(self, vae: str, endpoints: Sequence[Endpoint], pacing: Pacing) -> None:
        self.vae = vae
        self.endpoints = tuple(endpoints)
        self.pacing = pacing
        #: Requests that jobs have out or wait with; written under the decoder's lock.
        self.wanted = 0
        self._requests = 0
        self._hedges = 0
        self._turn = asyncio.Event()

    def wake(self) -> None:
        """Have those look again who wait for a slot."""
        self._turn.set()
        self._turn = asyncio.Event()

    async def free_endpoint(self, excluded: Collection[Endpoint], avoided: Collection[Endpoint]) -> Endpoint:
        """The best endpoint with a free slot, which must be taken before anything is awaited; waits for one.

        Raises:
            EndpointsAway: none of those that are not excluded can be asked.
        """
        while True:
            able = [one for one in self.endpoints if one not in excluded]
            found = choose([one.candidate for one in able], avoided)
            if found is not None:
                self._requests += 1
                return found
            if not any(one.health.can_be_asked for one in able):
                raise self.away(able)
            await self._turn.wait()

    async def is_back(self, excluded: Collection[Endpoint], seconds: float) -> bool:
        """Whether one of those that are not excluded can be asked within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not any(one not in excluded for one in self.able):
                    await self._turn.wait()
        return any(one not in excluded for one in self.able)

    def second_endpoint(self, first: Endpoint, excluded: Collection[Endpoint]) -> Endpoint | None:
        """Another endpoint for a request that takes long at the first, where one has a slot and few were sent twice."""
        if (self._hedges + 1) * self.pacing.requests_per_hedge > self._requests:
            return None
        found = choose([one.candidate for one in self.endpoints if one is not first and one not in excluded])
        if found is not None:
            self._hedges += 1
        return found

    def rest_seconds(self, excluded: Collection[Endpoint] = ()) -> float:
        """Until one of them can be asked: 0 where one can, infinite where their circuits are open."""
        rests = (
            one.health.rest_seconds for one in self.endpoints if one not in excluded and one.health.circuit == "closed"
        )
        return min(rests, default=math.inf)

    def away(self, of: Iterable[Endpoint] | None = None) -> EndpointsAway:
        """Why none of them can be asked."""
        states = "; ".join(_standing(one) for one in (self.endpoints if of is None else of))
        return EndpointsAway(f"no endpoint of VAE {self.vae!r} can be asked now: {states}")

    @property
    def able(self) -> list[Endpoint]:
        """Those that can be asked now."""
        return [one for one in self.endpoints if one.health.can_be_asked]

    @property
    def slots(self) -> int:
        """Requests that they take at a time."""
        return sum(one.entry.concurrency for one in self.able)

    @property
    def expected_seconds(self) -> float | None:
        """What the endpoint takes that would be asked now, or once it has a slot; None where none can be asked."""
        candidates = [one.candidate for one in self.endpoints]
        found = choose(candidates) or choose([replace(one, in_flight=0) for one in candidates])
        if found is None:
            return None
        return UNKNOWN_SECONDS if found.health.peak_seconds is None else found.health.peak_seconds


def _standing(endpoint: Endpoint) -> str:
    health = endpoint.health
    rest = f", to be asked in {health.rest_seconds:.0f} s" if health.rest_seconds else ""
    trouble = f" ({health.last_error})" if health.last_error else ""
    return f"{endpoint.name} is {'left alone' if health.circuit != 'closed' or rest else 'asked'}{rest}{trouble}"
