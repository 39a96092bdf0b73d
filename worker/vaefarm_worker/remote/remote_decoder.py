"""Decodes by asking endpoints, many requests at a time: behind the seam `Decoder`, and for the forwarder one by one."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from vaefarm_shared.catalogue import VaeEntry, unknown_vae
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.errors import ConfigurationError, EncodesNothing, EndpointsAway
from vaefarm_shared.job import JobSpec

from ..decoder import Batch, BatchItem, Decoded, Encoded, ServedVae
from ..memory_mode import MemoryMode
from .address import Address
from .circle import Circle
from .endpoint import Endpoint
from .exchange import joined, refusal
from .pacing import Pacing
from .tries import JobTries, Suspicions

logger = logging.getLogger(__name__)

#: Threads that read replies.
READERS: Final[int] = 2

#: What is told of weights that nobody here has seen; a reply may tell its own.
REVISION: Final[str] = "remote"


@dataclass(frozen=True, slots=True)
class RemoteVae:
    """A VAE and the endpoints that decode it."""

    entry: VaeEntry
    endpoints: tuple[EndpointEntry, ...]


#: Told what became of one job, and after how many seconds; on a thread of the decoder's own.
OnDone = Callable[[Decoded | Exception, float], None]


class RemoteDecoder:
    """Endpoints behind the seam `Decoder`. Every method may be called from any thread."""

    def __init__(
        self,
        vaes: Sequence[RemoteVae],
        *,
        plain: bool = False,
        trust_env: bool = False,
        pacing: Pacing | None = None,
    ) -> None:
        """Begin a thread with an event loop; no endpoint is asked anything yet.

        Args:
            plain: Ask for pixels always: steps after the decode need them.
            trust_env: Whether the proxy that HTTPS_PROXY names is used.
            pacing: How often and how long endpoints are asked.

        Raises:
            ConfigurationError: a VAE without a contract in the catalogue, an endpoint that is neither https nor this
                machine and was not allowed, a token's variable that is not set.
        """
        self._plain = plain
        self._suspicions = Suspicions()
        self._readers = ThreadPoolExecutor(READERS, "vaefarm-replies")
        self._lock = threading.Lock()
        self._is_closed = False
        self._notified: list[Callable[[], None]] = []
        self._jobs: set[asyncio.Task[Decoded]] = set()
        self._vaes: dict[str, ServedVae] = {}
        self._circles: dict[str, Circle] = {}
        for vae in vaes:
            served = _served(vae.entry)
            self._vaes[served.id] = served
            self._circles[served.id] = _circle(vae, served, trust_env, pacing or Pacing())
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="vaefarm-endpoints", daemon=True
        )
        self._thread.start()
        started.result()

    @property
    def device(self) -> str:
        """`remote`, for records; the report names the endpoint."""
        return "remote"

    @property
    def device_id(self) -> str:
        """The same for all of this host: no device of it can be at fault."""
        return f"{socket.gethostname()}-remote"

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        """The VAEs that have endpoints; none of them encodes."""
        return self._vaes

    def is_hot(self, vae: str) -> bool:
        """Whether an endpoint of the VAE can be asked now: its circuit is closed and it does not rest."""
        return bool(self._circle(vae).able)

    def begin_load(self, vae: str) -> None:
        """Nothing is loaded."""

    def load_error(self, vae: str) -> EndpointsAway | None:
        """Why no endpoint of the VAE can be asked now; None where one can."""
        circle = self._circle(vae)
        return None if circle.able else circle.away()

    def on_load(self, notify: Callable[[], None]) -> None:
        """Have `notify` called whenever an endpoint can be asked again, or a slot is free again."""
        self._notified.append(notify)

    def drop_idle(self) -> None:
        """Nothing can be dropped."""

    def max_pixels(self, vae: str) -> int | None:
        """Pixels of the largest picture that one of the VAE's endpoints takes, whatever state it is in."""
        return max(one.entry.max_pixels for one in self._circle(vae).endpoints)

    def max_pixels_now(self, vae: str) -> int:
        """The same of those endpoints that can be asked now; 0 where none can."""
        return max((one.entry.max_pixels for one in self._circle(vae).able), default=0)

    def batch_pixels(self, vae: str, picture_pixels: int | None = None) -> int | None:
        """None: an endpoint is asked for one picture at a time."""
        return None

    def slots(self, vae: str) -> int:
        """Requests that the VAE's endpoints take at a time, those that can be asked now."""
        return self._circle(vae).slots

    def free_slots(self, vae: str) -> int:
        """How many more jobs `start` may be given now, as endpoints have slots that are free."""
        circle = self._circle(vae)
        return max(0, circle.slots - circle.wanted)

    def expected_seconds(self, vae: str) -> float | None:
        """What a request that is begun now should take, by the endpoint that would be asked; None where none can be."""
        return self._circle(vae).expected_seconds

    def refusal(self, spec: JobSpec) -> str | None:
        """Why no endpoint can be asked for a job, whatever state they are in; None where one can."""
        reasons = [(one.name, refusal(spec, one.entry)) for one in self._circle(spec.vae).endpoints]
        if not all(reason for _, reason in reasons):
            return None
        return "; ".join(f"endpoint {name}: {reason}" for name, reason in reasons)

    def start(self, item: BatchItem, on_done: OnDone) -> Callable[[], None]:
        """Have an endpoint decode one job; returns at once, with what ends its requests. `on_done` is called once, with

        Decoded: its pictures;
        EndpointRefused: the endpoints that were asked will not decode it (400, 422, too large);
        EndpointFailed: they gave no picture of it, while they decode a known latent: the job may be at fault;
        EndpointsAway: none can be asked now, or its requests were ended, which is no fault of the job's.
        """
        circle = self._circle(item.spec.vae)
        with self._lock:
            if not self._is_closed:
                circle.wanted += 1
                begun: list[asyncio.Task[Decoded]] = []
                self._loop.call_soon_threadsafe(self._begin, circle, item, on_done, begun)
                return lambda: self.call(lambda: begun[0].cancel())
        on_done(_stopped(), 0.0)
        return lambda: None

    def call(self, tell: Callable[[], object]) -> None:
        """Have `tell` called by the thread that asks endpoints, as long as that is well and not closed."""
        with self._lock:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(tell)

    def modes(self, spec: JobSpec) -> Sequence[MemoryMode]:
        """Theirs is the memory."""
        return (MemoryMode.WHOLE,)

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        """One Decoded for each item, asked for at the same time; blocks. Raises the first item's error."""
        answers: list[Future[Decoded]] = [Future() for _ in batch.items]
        for item, answer in zip(batch.items, answers, strict=True):
            self.start(item, partial(_answer, answer))
        return [answer.result() for answer in answers]

    def encode(self, batch: Batch) -> list[Encoded]:
        """Raises EncodesNothing."""
        raise EncodesNothing(f"endpoints encode nothing: {batch.vae!r} needs a worker with the VAE itself")

    def self_test(self) -> None:
        """No device, and so none that could be at fault."""

    def describe(self) -> dict[str, Any]:
        """`endpoints`: an EndpointState of each, as JSON's values."""
        states = [one.state for circle in self._circles.values() for one in circle.endpoints]
        return {"device": self.device, "endpoints": [state.model_dump(mode="json") for state in states]}

    def close(self) -> None:
        """End every request, each with EndpointsAway, and the thread."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._loop.call_soon_threadsafe(self._ending.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _circle(self, vae: str) -> Circle:
        try:
            return self._circles[vae]
        except KeyError:
            raise unknown_vae(vae, self._circles) from None

    async def _serve(self, started: "Future[None]") -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        endpoints = [(one, circle) for circle in self._circles.values() for one in circle.endpoints]
        with self._readers:
            try:
                for endpoint, circle in endpoints:
                    endpoint.open(self._readers, partial(self._wake, circle))
            except BaseException as error:
                started.set_exception(error)
                raise
            started.set_result(None)
            await self._ending.wait()
            for job in self._jobs:
                job.cancel()
            await asyncio.gather(*self._jobs, return_exceptions=True)
            for endpoint, _ in endpoints:
                await endpoint.close()

    def _begin(self, circle: Circle, item: BatchItem, on_done: OnDone, begun: "list[asyncio.Task[Decoded]]") -> None:
        wanted = 1
        began = time.monotonic()

        def more(requests: int) -> None:
            nonlocal wanted
            wanted += requests
            with self._lock:
                circle.wanted += requests

        def ended(job: "asyncio.Task[Decoded]") -> None:
            self._jobs.discard(job)
            with self._lock:
                circle.wanted -= wanted
            outcome = _stopped() if job.cancelled() else job.exception() or job.result()
            try:
                on_done(outcome, time.monotonic() - began)  # type: ignore[arg-type]
            except Exception:
                logger.exception("what was to be told of job %s went wrong", item.spec.id)
            self._wake(circle)

        job = self._loop.create_task(self._decode(circle, item, more))
        begun.append(job)
        self._jobs.add(job)
        job.add_done_callback(ended)

    async def _decode(self, circle: Circle, item: BatchItem, more: Callable[[int], None]) -> Decoded:
        parts = await JobTries(circle, item, self._suspicions, plain=self._plain).decode(more)
        return await self._loop.run_in_executor(self._readers, joined, parts)

    def _wake(self, circle: Circle) -> None:
        circle.wake()
        for notify in self._notified:
            notify()


def _served(entry: VaeEntry) -> ServedVae:
    if entry.contract is None:
        raise ConfigurationError(
            f"VAE {entry.id!r}: endpoints tell no contract; give latent_channels and spatial_scale in the catalogue"
        )
    return ServedVae(entry.id, entry.contract, REVISION, encodes=False)


def _circle(vae: RemoteVae, served: ServedVae, trust_env: bool, pacing: Pacing) -> Circle:
    endpoints = [Endpoint(vae.entry, served, one, Address(one, trust_env=trust_env), pacing) for one in vae.endpoints]
    if not endpoints:
        raise ConfigurationError(f"VAE {served.id!r} has no endpoint; give it [[vaes.{served.id}.endpoints]]")
    return Circle(served.id, endpoints, pacing)


def _answer(answer: "Future[Decoded]", outcome: Decoded | Exception, seconds: float) -> None:
    if isinstance(outcome, Decoded):
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)


def _stopped() -> EndpointsAway:
    return EndpointsAway("the worker stops asking endpoints; the job goes back to its queue")
