"""What comes to the port and is no HTTP request."""

import gzip
import json
import logging

import numpy as np
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


@pytest.mark.parametrize("packing", ["gzip", "deflate", "gzip, gzip", "unheard-of"])
async def test_a_packed_body_is_refused_and_never_unpacked(gateway: Gateway, packing: str) -> None:
    whole = np.zeros((1, 4, 8, 8), np.float16).tobytes()
    asked = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float16"}
    for path, status in (("/v1/jobs", 422), ("/hf/demo", 400)):
        async with gateway.client.post(
            path, params=asked, data=gzip.compress(whole), headers={"Content-Encoding": packing}
        ) as answer:
            assert answer.status == status
            assert "not packed" in (await answer.json())["error"]


async def test_what_is_refused_before_its_body_is_read_is_not_unpacked_either(gateway: Gateway) -> None:
    broken = b"\x1f\x8bno gzip"
    headers = f"Host: localhost\r\nContent-Encoding: gzip\r\nContent-Length: {len(broken)}\r\n\r\n"
    follower = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await raw(gateway.url, b"POST /nowhere HTTP/1.1\r\n" + headers.encode() + broken + follower)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"HTTP/1.1 200 " in answer, "a body that was unpacked ends its connection"
