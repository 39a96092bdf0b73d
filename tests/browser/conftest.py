"""The farm's pages in Chromium. `make browser` runs these tests, and nothing else does.

Each starts a gateway of its own on a real Redis and opens its pages as people do; what a page complained of on the way,
an error of its script or something that its policy forbids, fails the test.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browser.visitor import Visitor
from tests.gateway.conftest import Keys
from tests.served_gateway import ServedGateway

from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

#: Chromium's executable; nothing downloads one.
CHROMIUM = os.environ.get("CHROMIUM")
if not CHROMIUM or find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]

#: What keeps Chromium from calling anyone but the gateway.
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

StartGateway = Callable[..., ServedGateway]


# Playwright's loop runs in this thread while it lasts: no longer than a module, since others have loops of their own.
@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox refuses root.
    arguments = ARGUMENTS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def start_gateway(settings: Settings) -> Iterator[StartGateway]:
    """Start gateways of the test's farm with settings of their own."""
    with ExitStack() as stack:

        def start(**options: object) -> ServedGateway:
            gateway = ServedGateway(settings, GatewaySettings.from_env(**options))
            gateway.start()
            stack.callback(gateway.stop)
            return gateway

        yield start


@pytest.fixture
def gateway(start_gateway: StartGateway) -> ServedGateway:
    """A gateway of the test's farm, on loopback, without keys."""
    return start_gateway()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """An empty file of keys."""
    return Keys(tmp_path / "keys.toml")


# It leaves before the gateway goes.
@pytest.fixture
def visitor(chromium: "Browser", start_gateway: StartGateway) -> Iterator[Visitor]:
    """Somebody with a browser; no page gave them anything to complain of."""
    one = Visitor(chromium)
    yield one
    one.leave()
    assert not one.complaints
