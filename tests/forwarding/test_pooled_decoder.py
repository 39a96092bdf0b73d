"""A device and endpoints as one decoder, whose device may be lost while somebody asks."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.forwarding.conftest import entry, remote, stripes
from tests.worker.items import decode, item, randn
from tests.worker.remote.bad_endpoint import BadEndpoint

from vaefarm_worker.decoder import Decoder
from vaefarm_worker.pooled_decoder import PooledDecoder


class Losing(PooledDecoder):
    """Its device is lost as soon as somebody has looked at it."""

    _held: Decoder | None

    @property
    def local(self) -> Decoder | None:
        found, self._held = self._held, None
        return found

    @local.setter
    def local(self, device: Decoder | None) -> None:
        self._held = device


@pytest.mark.parametrize(
    "ask",
    [
        lambda pooled: pooled.vaes,
        lambda pooled: pooled.has_weights("demo"),
        lambda pooled: pooled.is_hot("demo"),
        lambda pooled: pooled.begin_load("demo"),
        lambda pooled: pooled.load_error("demo"),
        lambda pooled: pooled.on_load(lambda: None),
        lambda pooled: pooled.drop_idle(),
        lambda pooled: pooled.max_pixels("demo"),
        lambda pooled: pooled.batch_pixels("demo", 64 * 64),
        lambda pooled: pooled.modes(item(pooled.remote, "demo", randn(1, 4, 8, 8)).spec),
        lambda pooled: pooled.self_test(),
        lambda pooled: pooled.describe(),
    ],
)
def test_a_device_that_is_lost_between_two_looks_breaks_nothing_that_is_asked(
    endpoint: BadEndpoint, ask: Callable[[PooledDecoder], Any]
) -> None:
    pooled = Losing(None, remote(entry(endpoint.url)))
    pooled.local = stripes()
    try:
        ask(pooled)
        ask(pooled)
        assert decode(pooled, "demo", randn(1, 4, 8, 8)).endpoint == "far"
    finally:
        pooled.close()
