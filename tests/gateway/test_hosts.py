"""Names that a gateway answers to, and pages that may call it."""

import pytest
from tests.gateway.conftest import Gateway, Keys, raw

from vaefarm_producer.gateway.hosts import Hosts
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.errors import ConfigurationError

PAGE = "https://app.example"


async def status(gateway: Gateway, headers: dict[str, str], method: str = "GET", path: str = "/openapi.json") -> int:
    async with gateway.client.request(method, path, headers=headers) as answer:
        return answer.status


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("LOCALHOST.:80", True),
        ("[::1]:8000", True),
        ("192.0.2.7", True),
        ("farm.example", True),
        ("farm.example:8443", True),
        ("a.inner.example", True),
        ("a.b.inner.example", True),
        ("evil.example", False),
        ("inner.example", False),
        ("evilinner.example", False),
        ("farm.example.evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example@localhost", False),
        ("localhost/evil.example", False),
        ("127.1", False),
        ("", False),
    ],
)
async def test_only_addresses_and_names_of_its_own_are_answered(start_gateway, host: str, allowed: bool) -> None:
    gateway = await start_gateway(allowed_hosts="farm.example, *.inner.example")
    assert await status(gateway, {"Host": host}) == (200 if allowed else 403)


async def test_the_name_of_the_public_address_is_its_own(start_gateway, keys: Keys) -> None:
    keys.make("web")
    gateway = await start_gateway(public_url="https://farm.example/", keys=keys.path)
    assert await status(gateway, {"Host": "farm.example"}) == 200
    assert await status(gateway, {"Host": "farm.example", "Origin": "https://farm.example"}) == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /openapi.json HTTP/1.1\r\nHost: evil.example\r\n",
        b"GET http://evil.example/openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"GET http://127.0.0.1/openapi.json HTTP/1.1\r\nHost: evil.example\r\n",
        b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n",
        b"GET /openapi.json HTTP/1.1\r\n",
        b"GET /openapi.json HTTP/1.0\r\n",
    ],
)
async def test_no_other_way_of_naming_a_host_gets_round_it(gateway: Gateway, head: bytes) -> None:
    answer = await raw(gateway.url, head + b"Connection: close\r\n\r\n")
    assert answer.split(b" ")[1] in (b"403", b"400")
    assert b"openapi" not in answer.partition(b"\r\n\r\n")[2]


async def test_a_key_does_not_open_what_a_wrong_host_closes(start_gateway, keys: Keys) -> None:
    headers = keys.make("web", admin=True)
    gateway = await start_gateway(keys=keys.path)
    assert await status(gateway, headers | {"Host": "evil.example"}, path="/v1/events") == 403


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://127.0.0.1", "http://localhost:1", ""])
async def test_pages_of_other_origins_may_not_call(gateway: Gateway, method: str, origin: str) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with gateway.client.request(method, "/v1/statuses", headers=headers) as answer:
        assert answer.status == 403
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_its_own_pages_may_call(gateway: Gateway) -> None:
    assert await status(gateway, {"Origin": gateway.url}) == 200


async def test_an_allowed_page_is_told_that_it_may_read_also_what_is_an_error(start_gateway, keys: Keys) -> None:
    headers = keys.make("web") | {"Origin": PAGE}
    gateway = await start_gateway(allowed_origins=f"{PAGE}, https://other.example:8443", keys=keys.path)
    for path, sent in (("/v1/jobs/nobody", headers), ("/nowhere", headers), ("/v1/jobs/nobody", {"Origin": PAGE})):
        async with gateway.client.get(path, headers=sent) as answer:
            assert answer.status in (401, 404)
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE
            assert {"x-job-id", "Location", "Retry-After"} <= set(
                answer.headers["Access-Control-Expose-Headers"].split(", ")
            )
            assert answer.headers["Vary"] == "Origin"
    async with gateway.client.get("/nowhere") as answer:
        assert (answer.headers["Vary"], "Access-Control-Allow-Origin" in answer.headers) == ("Origin", False)
    for near in ("https://other.example", f"{PAGE}.evil.example", f"{PAGE}:8443", "http://app.example"):
        assert await status(gateway, {"Origin": near}) == 403


async def test_a_preflight_is_answered_before_any_key_is_asked_for(start_gateway, keys: Keys) -> None:
    keys.make("web")
    gateway = await start_gateway(allowed_origins=PAGE, keys=keys.path)
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization,content-type,prefer",
    }
    async with gateway.client.options("/v1/jobs/mine", headers=headers) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert {"PUT", "GET", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
        allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"authorization", "content-type", "prefer", "last-event-id"} <= set(allowed)
        assert "Access-Control-Allow-Credentials" not in answer.headers
    assert await status(gateway, headers, "OPTIONS", "/nowhere") == 404


async def test_options_says_which_methods_there_are(gateway: Gateway) -> None:
    async with gateway.client.options("/v1/statuses") as answer:
        assert (answer.status, answer.headers["Allow"]) == (204, "OPTIONS, POST")


@pytest.mark.parametrize(
    "settings",
    [
        {"allowed_origins": "*"},
        {"allowed_origins": "app.example"},
        {"allowed_hosts": "*"},
        {"allowed_hosts": "https://farm.example"},
        {"public_url": "farm.example"},
    ],
)
def test_names_and_origins_that_cannot_be_ones_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        Hosts("127.0.0.1", GatewaySettings.from_env(**settings))
