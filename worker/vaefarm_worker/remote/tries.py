"""One job at one endpoint after another, until its pictures are there or it is known whose fault it is that none is.

An endpoint that sleeps is no fault of the job's. A try that ends otherwise may be, one that was forbidden included, and
so whoever was tried often enough is judged by a known latent: an endpoint that decodes that is well, and the job is
not.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from vaefarm_shared.errors import EndpointFailed, EndpointRefused, EndpointsAway

from ..decoder import BatchItem, Decoded
from .circle import Circle
from .endpoint import Endpoint
from .exchange import NotReproducible, Question, refusal
from .trouble import Asleep, Gone, Redirected, Refused, Trouble

#: Requests whose tries are remembered while their jobs are back in their queues.
REMEMBERED: Final[int] = 10_000

#: What a 503 counts as a try that a job may be at fault for, where others were decoded since the last one: an endpoint
#: that sheds load says it too, and must say it of the same job many times.
ASLEEP_FOR_IT: Final[float] = 0.1

#: Part of the other requests that a slow one is slower than.
SLOW_PERCENT: Final[int] = 95


@dataclass(slots=True)
class Suspicion:
    """What speaks against one request of a job."""

    #: Tries that failed in ways that may be the job's own fault.
    tries: float = 0.0
    #: What each endpoint had decoded when it last said of the request that it sleeps.
    decoded: dict[Endpoint, int] = field(default_factory=dict)

    def note(self, endpoint: Endpoint, error: Trouble) -> None:
        """A try failed. It says nothing where the endpoint sleeps, unless it decodes others meanwhile."""
        if not isinstance(error, Asleep):
            self.tries += 1
        elif not error.busy:
            before, now = self.decoded.get(endpoint), endpoint.health.succeeded_count
            self.decoded[endpoint] = now
            self.tries += ASLEEP_FOR_IT if before is not None and now > before else 0.0


class Suspicions:
    """What speaks against jobs that went back to their queues.

    Without it a job that breaks its endpoint would open the circuit, go back for nothing, and come again for ever.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], Suspicion] = OrderedDict()

    def take(self, job: str, part: int) -> Suspicion:
        """What is known of one request, which is forgotten here."""
        return self._kept.pop((job, part), None) or Suspicion()

    def keep(self, job: str, part: int, suspicion: Suspicion) -> None:
        """Remember it."""
        if suspicion.tries or suspicion.decoded:
            self._kept[job, part] = suspicion
            while len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)


class JobTries:
    """One job, whose requests are asked at the same time."""

    def __init__(self, circle: Circle, item: BatchItem, suspicions: Suspicions, *, plain: bool) -> None:
        self.circle = circle
        self.item = item
        self.suspicions = suspicions
        reasons = {one: refusal(item.spec, one.entry) for one in circle.endpoints}
        #: Endpoints that will not decode this job, and why.
        self.excluded = {one: f"endpoint {one.name}: {reason}" for one, reason in reasons.items() if reason}
        self._plain = plain
        self._questions: dict[Endpoint, list[Question]] = {}

    async def decode(self, more: Callable[[int], None]) -> list[Decoded]:
        """Its pictures, one for each request.

        Args:
            more: Told how many requests it has beyond the first.

        Raises:
            EndpointRefused, EndpointFailed, EndpointsAway: as `RemoteDecoder.start` says.
        """
        able = self.not_excluded()
        if not self.circle.able:
            raise self.circle.away(able)
        count = len(self.questions(able[0]))
        more(count - 1)
        tasks = [asyncio.create_task(_RequestTries(self, part).decode()) for part in range(count)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def questions(self, endpoint: Endpoint) -> list[Question]:
        """Its requests in an endpoint's words; as many in any."""
        if endpoint not in self._questions:
            self._questions[endpoint] = endpoint.questions(self.item, plain=self._plain)
        return self._questions[endpoint]

    def not_excluded(self) -> list[Endpoint]:
        """Endpoints that may decode it. Raises EndpointRefused where there are none, with what was said last."""
        found = [one for one in self.circle.endpoints if one not in self.excluded]
        if not found:
            raise EndpointRefused(list(self.excluded.values())[-1])
        return found


class _RequestTries:
    """One request of a job."""

    def __init__(self, job: JobTries, part: int) -> None:
        self._job = job
        self._part = part
        self._circle = job.circle
        self._pacing = job.circle.pacing
        #: Endpoints that gave no picture of it, the last one last.
        self._tried: list[Endpoint] = []
        #: What speaks against it, of earlier claims too.
        self._suspicion = job.suspicions.take(job.item.spec.id, part)
        self._patience = 2 * max(one.entry.timeout_seconds for one in self._circle.endpoints)
        self._backoff = wait_random_exponential(self._pacing.first_backoff, self._pacing.longest_backoff)

    async def decode(self) -> Decoded:
        """Its picture. Raises as JobTries.decode."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Trouble),
            stop=self._is_over,
            wait=self._pause,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await self._once()
            raise AssertionError("tenacity raises the last error")
        except Trouble as trouble:
            raise await self._verdict(trouble) from None
        except (EndpointsAway, asyncio.CancelledError):
            self._job.suspicions.keep(self._job.item.spec.id, self._part, self._suspicion)
            raise

    async def _once(self) -> Decoded:
        """One try, at whatever endpoint will decode it."""
        while True:
            self._job.not_excluded()
            endpoint = await self._free_endpoint()
            decoded = await self._decode_at(endpoint)
            if decoded is not None:
                return decoded

    async def _free_endpoint(self) -> Endpoint:
        """The endpoint to ask. Raises EndpointsAway, EndpointRefused."""
        try:
            return await self._circle.free_endpoint(self._job.excluded, self._tried)
        except EndpointsAway as away:
            if not self._circle.able:
                raise
            # Others decode the VAE, but not this job: back in its queue it would be claimed again at once, for ever.
            if await self._circle.is_back(self._job.excluded, self._pacing.longest_wait_for_rest):
                return await self._free_endpoint()
            raise EndpointRefused("; ".join([*self._job.excluded.values(), str(away)])) from away

    async def _decode_at(self, endpoint: Endpoint) -> Decoded | None:
        """The picture by one endpoint, or by another one that was faster; None where none of them will decode it."""
        out = {self._begin(endpoint): endpoint}
        try:
            slow_seconds = self._slow_seconds(endpoint)
            if slow_seconds is not None:
                done, _ = await asyncio.wait(out, timeout=slow_seconds)
                second = None if done else self._circle.second_endpoint(endpoint, self._job.excluded)
                if second is not None:
                    out[self._begin(second)] = second
            return await self._first_of(out)
        finally:
            for task in out:
                task.cancel()

    async def _first_of(self, out: "dict[asyncio.Task[Decoded], Endpoint]") -> Decoded | None:
        """The first picture. Raises the last Trouble where none came."""
        trouble: Trouble | None = None
        while out:
            done, _ = await asyncio.wait(out, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                endpoint = out.pop(task)
                try:
                    return task.result()
                except (Refused, NotReproducible) as error:
                    self._job.excluded[endpoint] = f"endpoint {endpoint.name} refuses it: {error}"
                except Trouble as error:
                    trouble = error
                    self._tried.append(endpoint)
                    self._suspicion.note(endpoint, error)
        if trouble is not None:
            raise trouble
        return None

    def _begin(self, endpoint: Endpoint) -> "asyncio.Task[Decoded]":
        return endpoint.begin(self._job.questions(endpoint)[self._part], self._job.item.spec)

    def _slow_seconds(self, endpoint: Endpoint) -> float | None:
        if not endpoint.entry.hedge:
            return None
        return endpoint.health.percentile(SLOW_PERCENT, least=self._pacing.latencies_to_hedge)

    def _is_over(self, state: RetryCallState) -> bool:
        """Whether it was tried often or long enough."""
        tries = max(state.attempt_number, self._suspicion.tries)
        return tries >= self._pacing.tries or (state.seconds_since_start or 0.0) >= self._patience

    def _pause(self, state: RetryCallState) -> float:
        """Until the next try: until an endpoint can be asked, where that is not long, and a random time more."""
        rest = self._circle.rest_seconds(self._job.excluded)
        if rest > self._pacing.longest_wait_for_rest:
            # Nothing is worth waiting for, which the next look at the endpoints says.
            return 0.0
        return rest + self._backoff(state)

    async def _verdict(self, trouble: Trouble) -> Exception:
        """Whose fault it is, once every try is used up."""
        endpoint, tries = self._tried[-1], self._suspicion.tries
        is_away = isinstance(trouble, Asleep) or not endpoint.health.can_be_asked
        if tries >= self._pacing.tries and isinstance(trouble, Asleep | Gone | Redirected):
            # It was well again after each of those, by a known latent or by other jobs: perhaps it is this one's fault.
            is_away = False
        if is_away or not await endpoint.probe():
            self._job.suspicions.keep(self._job.item.spec.id, self._part, self._suspicion)
            return self._circle.away(self._job.not_excluded())
        return EndpointFailed(f"endpoint {endpoint.name} gave no picture of it in {tries:.0f} tries: {trouble}")
