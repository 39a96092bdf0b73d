"""What comes to the port and is no HTTP request."""

import json
import logging

import pytest
from tests.gateway.conftest import Gateway, raw


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /v1/jobs/" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10_000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\x00c\r\n\r\n", 400),
    ],
)
async def test_what_is_no_http_is_answered_as_json_and_leaves_no_traceback(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, request_bytes: bytes, status: int
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = await raw(gateway.url, request_bytes)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) or head.startswith(b"HTTP/1.0 %d " % status), answer
    assert json.loads(body)["code"] == "BadRequest"
    assert b"nosniff" in head
    assert not [record for record in caplog.records if record.exc_info]
