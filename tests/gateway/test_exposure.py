"""When a gateway needs keys: by where callers can come from."""

import logging

import pytest

from vaefarm_producer.gateway.admission import Gate
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.errors import ConfigurationError


@pytest.mark.parametrize(
    ("bound", "settings"),
    [
        ("0.0.0.0", {}),
        ("0.0.0.0", {"exposed_on": "0.0.0.0"}),
        ("127.0.0.1", {"exposed_on": "192.0.2.1"}),
        ("0.0.0.0", {"exposed_on": "farm.example"}),
        ("0.0.0.0", {"exposed_on": "127.0.0.1", "public_url": "https://farm.example"}),
        ("127.0.0.1", {"public_url": "https://farm.example"}),
    ],
)
def test_where_others_can_connect_a_gateway_needs_keys(bound: str, settings: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="can be called by others than this machine, which needs keys"):
        Gate(bound, GatewaySettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bound", "settings"),
    [
        ("0.0.0.0", {"exposed_on": "127.0.0.1"}),
        ("::", {"exposed_on": "::1"}),
        ("0.0.0.0", {"exposed_on": "guarded"}),
        ("0.0.0.0", {"exposed_on": "guarded", "public_url": "https://farm.example"}),
    ],
)
def test_a_container_whose_port_only_its_host_reaches_or_that_is_guarded_needs_none_and_says_so(
    bound: str, settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert Gate(bound, GatewaySettings(**settings)).ring is None  # type: ignore[arg-type]
    assert "whoever reaches this gateway is an admin" in caplog.text


def test_loopback_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Gate("127.0.0.1", GatewaySettings())
    assert not caplog.text
