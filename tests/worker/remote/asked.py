"""Decoders that ask endpoints of the tests' own, and jobs for them."""

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.worker.items import item, randn
from tests.worker.remote.bad_endpoint import BadEndpoint

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_worker.decoder import BatchItem, Decoded
from vaefarm_worker.fake_decoder import stripes
from vaefarm_worker.remote.pacing import Pacing
from vaefarm_worker.remote.remote_decoder import RemoteDecoder, RemoteVae

DEMO = Catalogue.load()["demo"]

#: Waits that a test does not notice.
FAST = {"first_backoff": 0.001, "longest_backoff": 0.01, "first_probe": 0.02, "longest_probe": 0.05}

#: No known latent is sent while the test runs.
NEVER_MENDED = FAST | {"first_probe": 1000.0, "longest_probe": 1000.0}


def entry_for(endpoint: BadEndpoint, **options: Any) -> EndpointEntry:
    """Pixels rather than files, so that pictures can be compared; times that a test has."""
    told: dict[str, Any] = {"url": endpoint.url, "pass_through": False, "timeout_seconds": 30.0} | options
    return EndpointEntry(**told)


@contextmanager
def asking(*entries: EndpointEntry, pacing: dict[str, Any] | None = None, **options: Any) -> Iterator[RemoteDecoder]:
    decoder = RemoteDecoder([RemoteVae(DEMO, entries)], pacing=Pacing(**(pacing or FAST)), **options)
    try:
        yield decoder
    finally:
        decoder.close()


def job(decoder: RemoteDecoder, seed: int = 0, count: int = 1, **options: Any) -> BatchItem:
    return item(decoder, "demo", randn(count, 4, 8, 8, seed=seed), **options)


def begin(decoder: RemoteDecoder, asked: BatchItem) -> "Future[Decoded]":
    """Start a job; its end as a future, which may end once."""
    answer: Future[Decoded] = Future()

    def on_done(outcome: Decoded | Exception, seconds: float) -> None:
        if isinstance(outcome, Decoded):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)

    decoder.start(asked, on_done)
    return answer


def is_right(decoded: Decoded, asked: BatchItem) -> bool:
    """Whether it is the picture of those latents."""
    return decoded.pixels is not None and np.array_equal(decoded.pixels, stripes(asked))


def changes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What circuits did, in order: `closed -> open`."""
    lines = [record.getMessage() for record in caplog.records if record.name == "vaefarm_worker.remote.endpoint"]
    return [line.split(": ")[1] for line in lines if " -> " in line]


def listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
