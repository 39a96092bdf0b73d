"""One endpoint of one VAE: what is asked of it, how that goes into its health, and the known latents that mend it."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.endpoints import Circuit, EndpointEntry, EndpointState
from vaefarm_shared.job import JobSpec

from ..decoder import BatchItem, Decoded, ServedVae
from ..self_test import fixed_item
from .address import Address
from .asking import Asker
from .choosing import Candidate
from .exchange import BadReply, NotReproducible, Question, questions, read_reply
from .health import Health
from .pacing import Pacing
from .trouble import Asleep, Broken, Garbled, Gone, Redirected, Refused, Trouble

logger = logging.getLogger(__name__)


class Endpoint:
    """An endpoint. It is asked on one event loop; what it tells may be read by any thread."""

    def __init__(
        self, vae: VaeEntry, served: ServedVae, entry: EndpointEntry, address: Address, pacing: Pacing
    ) -> None:
        self.name = entry.shown_name
        self.entry = entry
        self.health = Health(pacing, self._changed)
        self._vae = vae
        self._contract = served.contract
        self._known = fixed_item(served)
        self._address = address
        self._pacing = pacing
        self._tasks: set[asyncio.Task[None]] = set()
        self._probe: asyncio.Task[bool] | None = None

    def open(self, readers: Executor, wake: Callable[[], None]) -> None:
        """Begin on the running loop.

        Args:
            readers: Where replies are read, which takes a processor for long.
            wake: Called on the loop when it can be asked again, or has a slot again, or neither any more.
        """
        self._readers, self._wake = readers, wake
        self._loop = asyncio.get_running_loop()
        self._asker = Asker(self.entry, self._address)

    async def close(self) -> None:
        """End what is out, and every connection."""
        tasks = [*self._tasks, *([self._probe] if self._probe else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._asker.close()

    @property
    def candidate(self) -> Candidate["Endpoint"]:
        """How it stands now."""
        health = self.health
        return Candidate(
            self,
            health.can_be_asked,
            health.in_flight,
            self.entry.concurrency,
            health.faded_seconds,
            health.success_rate,
        )

    @property
    def state(self) -> EndpointState:
        """What a worker tells of it."""
        return self.health.state(self._vae.id, self.name, self.entry.shown_url, self.entry.concurrency)

    def questions(self, item: BatchItem, *, plain: bool) -> list[Question]:
        """The requests that a job takes here."""
        return questions(item.spec, item.latents, self._vae, self.entry, plain=plain)

    def begin(self, question: Question, spec: JobSpec) -> "asyncio.Task[Decoded]":
        """Ask, in a slot that is taken at once and free when the task ends, however it ends.

        The task raises Trouble or NotReproducible; one that is canceled counts for nothing.
        """
        self.health.in_flight += 1
        task = self._loop.create_task(self._ask(question, spec))
        task.add_done_callback(self._ended)
        return task

    async def probe(self) -> bool:
        """Whether it decodes a known latent, which goes into its circuit. Who asks meanwhile shares the answer."""
        if self._probe is None or self._probe.done():
            self._probe = self._loop.create_task(self._decode_known())
        return await asyncio.shield(self._probe)

    async def _ask(self, question: Question, spec: JobSpec) -> Decoded:
        began = time.monotonic()
        try:
            decoded = await self._answer(question, spec)
        except NotReproducible:
            self.health.succeeded(time.monotonic() - began)
            raise
        except Refused:
            raise
        except Trouble as trouble:
            self._rest(trouble)
            if isinstance(trouble, Asleep) and trouble.busy:
                self.health.put_off(trouble)
            else:
                self.health.failed(trouble, fatal=isinstance(trouble, Gone | Redirected))
            raise
        self.health.succeeded(time.monotonic() - began)
        return replace(decoded, endpoint=self.name)

    async def _answer(self, question: Question, spec: JobSpec) -> Decoded:
        answer = await self._asker.ask(question)
        try:
            return await self._loop.run_in_executor(
                self._readers,
                read_reply,
                question,
                spec,
                self._contract,
                answer.status,
                answer.headers,
                answer.body,
            )
        except NotReproducible:
            raise
        except BadReply as error:
            raise Garbled(self._address.clean(str(error))) from None

    async def _decode_known(self) -> bool:
        trouble: Trouble | None = None
        try:
            await self._answer(self.questions(self._known, plain=True)[0], self._known.spec)
        except Trouble as error:
            trouble = error
            self._rest(trouble)
        except Exception as error:
            # Whatever it is: a circuit that nobody tries any more would stay open for ever.
            logger.exception("endpoint %s of %s: the known latent went wrong", self.name, self._vae.id)
            trouble = Broken(f"the known latent went wrong: {type(error).__name__}")
        if isinstance(trouble, Asleep) and trouble.busy and self.health.circuit == "closed":
            self.health.put_off(trouble)
        else:
            self.health.probed(trouble)
        return trouble is None

    async def _mend(self) -> None:
        """Send known latents until one is decoded, each after twice as long."""
        longest = self._pacing.first_probe
        while self.health.circuit != "closed":
            # Many workers see an endpoint go at the same moment; they should not all come back at one.
            pause = max(longest * random.uniform(0.5, 1.0), self.health.rest_seconds)
            self.health.plan_probe(pause)
            await asyncio.sleep(pause)
            self.health.half_open()
            await self.probe()
            longest = min(2 * longest, self._pacing.longest_probe)

    def _rest(self, trouble: Trouble) -> None:
        if not isinstance(trouble, Asleep):
            return
        seconds = trouble.retry_after_seconds
        if seconds is None and trouble.busy:
            seconds = self._pacing.unnamed_rest
        if seconds:
            self.health.rest(seconds)
            # Its end is nobody's doing that could wake who waits for it.
            self._loop.call_later(self.health.rest_seconds + 0.001, self._wake)

    def _ended(self, task: "asyncio.Task[Decoded]") -> None:
        self.health.in_flight -= 1
        if not task.cancelled():
            # Nobody may wait any more for what a second request has answered.
            task.exception()
        self._wake()

    def _changed(self, old: Circuit, new: Circuit, reason: str) -> None:
        level = logging.WARNING if new == "open" else logging.INFO
        logger.log(level, "endpoint %s of %s: %s -> %s: %s", self.name, self._vae.id, old, new, reason)
        # One that has ended stays among them for a turn of the loop.
        if new == "open" and all(task.done() for task in self._tasks):
            task = self._loop.create_task(self._mend())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._wake()
