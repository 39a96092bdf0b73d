"""Workers that forward: in this process, on threads, with waits that are short."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from tests.conftest import eventually
from tests.worker.remote.bad_endpoint import BadEndpoint

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.settings import Settings
from vaefarm_worker.decoder import Decoder
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.pooled_decoder import PooledDecoder
from vaefarm_worker.remote.pacing import Pacing
from vaefarm_worker.remote.remote_decoder import RemoteDecoder, RemoteVae
from vaefarm_worker.worker import Worker

#: Waits of tests: what is a second for users is some hundredths.
QUICK = Pacing(
    first_backoff=0.01,
    longest_backoff=0.05,
    longest_wait_for_rest=2.0,
    first_probe=0.05,
    longest_probe=0.4,
    unnamed_rest=0.05,
)


def entry(url: str, **fields: object) -> EndpointEntry:
    """An endpoint that is given up on soon."""
    seconds: dict[str, object] = {"connect_seconds": 1.0, "read_seconds": 0.5, "timeout_seconds": 1.0}
    return EndpointEntry.model_validate({"url": url, "name": "far", **seconds, **fields})


def remote(*endpoints: EndpointEntry, vae: str = "demo", pacing: Pacing = QUICK) -> RemoteDecoder:
    """A decoder by those endpoints."""
    return RemoteDecoder([RemoteVae(Catalogue.load()[vae], endpoints)], pacing=pacing)


def stripes(vae: str = "demo", seconds: float = 0.0, **options: int) -> FakeDecoder:
    """A device that draws stripes, as the endpoints of these tests do."""
    return FakeDecoder([Catalogue.load()[vae]], seconds, **options)  # type: ignore[arg-type]


@pytest.fixture
def endpoint() -> Iterator[BadEndpoint]:
    """An endpoint that decodes the demo's VAE into stripes, until it is told to misbehave."""
    with BadEndpoint() as one:
        yield one


class Running:
    """A worker on a thread."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.ended = threading.Event()
        self._error: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def reraise(self) -> None:
        """Raise what ended it."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self.worker.run()
        except Exception as error:
            self._error = error
        finally:
            self.ended.set()


@pytest.fixture
def serving(
    settings: Settings, connection: redis.Redis, shared_lifelines: Callable[[Settings], Lifeline]
) -> Callable[..., object]:
    """A worker that serves a device, or none, and endpoints, as long as the context lasts."""

    @contextmanager
    def run(local: Decoder | None, by: RemoteDecoder, *, name: str = "here", **changed: object) -> Iterator[Running]:
        own = settings.model_copy(update=changed)
        running = Running(Worker(own, PooledDecoder(local, by), name, shared_lifelines(settings)))
        try:
            eventually("the worker serves", lambda: connection.exists(f"vaefarm:worker:{name}"))
            yield running
        finally:
            running.worker.stop()
            assert running.ended.wait(60), "the worker did not end"

    return run
