"""One request over HTTP: what is sent, what each answer counts as, and what is never shown."""

import asyncio
import logging
import re
import shutil
import socket
import ssl
import subprocess
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.worker.remote.asked import NEVER_MENDED, asking, entry_for, job
from tests.worker.remote.bad_endpoint import BadEndpoint, Behaviour, Drips, Headers, Resets, Says, TooMuch, Well

from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.errors import ConfigurationError, FarmError
from vaefarm_worker.decoder import Batch
from vaefarm_worker.remote.address import Address
from vaefarm_worker.remote.asking import Asker, read_retry_after
from vaefarm_worker.remote.exchange import Question
from vaefarm_worker.remote.trouble import Asleep, Broken, Garbled, Gone, Redirected, Refused, TimedOut, Trouble

QUESTION = Question(
    params=(
        ("output_type", "pt"),
        ("partial_postprocess", "True"),
        ("shape", "1"),
        ("shape", "4"),
        ("shape", "8"),
        ("shape", "8"),
        ("dtype", "float16"),
    ),
    headers={"Content-Type": "tensor/binary", "Accept": "tensor/binary"},
    body=bytes(512),
    count=1,
    most_bytes=64 * 64 * 3,
)

TOKEN = "hf_AbCdEfGhIjKl"
PASSWORD = "p@ss/word"
QUERY_SECRET = "querysecret"


@pytest.fixture
def endpoint():
    with BadEndpoint() as endpoint:
        yield endpoint


@asynccontextmanager
async def asker(entry: EndpointEntry, *, trust_env: bool = False) -> AsyncIterator[Asker]:
    asker = Asker(entry, Address(entry, trust_env=trust_env))
    try:
        yield asker
    finally:
        await asker.close()


async def trouble_of(entry: EndpointEntry) -> Trouble:
    async with asker(entry) as asking_it:
        with pytest.raises(Trouble) as caught:
            await asking_it.ask(QUESTION)
    return caught.value


async def test_a_question_is_sent_as_it_is_by_name_of_the_farm_alone(endpoint: BadEndpoint) -> None:
    # By a name: no jar keeps cookies of an address.
    entry = entry_for(endpoint, url=f"http://localhost:{endpoint.port}/path?key=a%20b")
    endpoint.behave(Headers({"Set-Cookie": "who=you"}))
    async with asker(entry) as asking_it:
        for _ in range(2):
            answer = await asking_it.ask(QUESTION)
    asked = endpoint.asked[-1]

    assert (answer.status, len(answer.body)) == (200, 64 * 64 * 3)
    assert asked.query == [("key", "a b"), *QUESTION.params]
    assert asked.body == QUESTION.body
    assert re.fullmatch(r"vaefarm/[0-9.]+", asked.headers["User-Agent"])
    assert asked.headers["Accept-Encoding"] == "identity"
    assert {"Authorization", "Cookie", "X-Scale-Up-Timeout"}.isdisjoint(asked.headers)


async def test_a_token_or_the_urls_user_says_who_asks(endpoint: BadEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", f" {TOKEN}\n")
    with_user = endpoint.url.replace("//", "//me:p%40ss%2Fword@")
    for entry in (entry_for(endpoint, token_env="A_TOKEN"), entry_for(endpoint, url=with_user)):
        async with asker(entry) as asking_it:
            await asking_it.ask(QUESTION)

    assert [asked.headers["Authorization"] for asked in endpoint.asked] == [
        f"Bearer {TOKEN}",
        "Basic bWU6cEBzcy93b3Jk",
    ]


def test_a_token_with_characters_of_no_token_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "two\nlines")
    with pytest.raises(ConfigurationError, match="A_TOKEN has characters") as caught:
        Address(EndpointEntry(url="https://farm.example", token_env="A_TOKEN"))

    assert "lines" not in str(caught.value)


STATUSES: dict[int, type[Trouble]] = {
    **dict.fromkeys((301, 302, 303, 307, 308), Redirected),
    **dict.fromkeys((400, 409, 413, 415, 422), Refused),
    **dict.fromkeys((401, 403, 404, 405, 410), Gone),
    **dict.fromkeys((429, 503), Asleep),
    **dict.fromkeys((408, 504), TimedOut),
    **dict.fromkeys((500, 502, 507, 599), Broken),
}


@pytest.mark.parametrize("status", STATUSES)
async def test_each_status_counts_as_what_it_is(endpoint: BadEndpoint, status: int) -> None:
    endpoint.behave(Says(status, headers={"Location": "https://elsewhere.example/"}))
    trouble = await trouble_of(entry_for(endpoint))

    assert type(trouble) is STATUSES[status]
    assert str(status) in str(trouble)
    assert endpoint.requests == 1


async def test_an_endpoint_says_when_it_can_be_asked_again(endpoint: BadEndpoint) -> None:
    endpoint.behave(Says(503, headers={"Retry-After": "7"}), Says(429), Says(503, headers={"Retry-After": "soon"}))
    found = [await trouble_of(entry_for(endpoint)) for _ in range(3)]

    assert [one.retry_after_seconds for one in found] == [7, None, None]
    assert [one.busy for one in found if isinstance(one, Asleep)] == [False, True, False]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, 999999999.0),
        (formatdate(1_000_030.0, usegmt=True), 30.0),
        (formatdate(999_000.0, usegmt=True), 0.0),
        ("-1", None),
        ("1.5", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value, 1_000_000.0) == seconds


async def test_an_endpoints_words_are_one_short_line(endpoint: BadEndpoint) -> None:
    said = '{"error": "one\\ntwo\\u001b[31m \\u2028' + "x" * 1000 + '"}'
    endpoint.behave(Says(400, said), Says(400, '{"error": {"deep": 1}}'), Says(400, "[" * 100_000), Says(400, '"e"'))
    found = [str(await trouble_of(entry_for(endpoint))) for _ in range(4)]

    assert found[0].startswith("400: one two [31m ")
    assert len(found[0]) == len("400: ") + 200
    assert found[1:] == ["400: Bad Request"] * 3


async def test_no_more_is_read_than_a_reply_can_have(endpoint: BadEndpoint) -> None:
    endpoint.behave(TooMuch())
    trouble = await trouble_of(entry_for(endpoint))

    assert isinstance(trouble, Garbled)
    assert "more than the 12288 bytes" in str(trouble)


async def test_a_decode_may_take_longer_than_a_pause_in_its_answer(endpoint: BadEndpoint) -> None:
    endpoint.behave(Well(0.3), Drips(60.0))
    entry = entry_for(endpoint, read_seconds=0.1)
    async with asker(entry) as asking_it:
        assert (await asking_it.ask(QUESTION)).status == 200
    trouble = await trouble_of(entry)

    assert isinstance(trouble, TimedOut)
    assert str(trouble) == "its answer stopped for 0.1 s"


async def test_a_place_without_an_endpoint_sleeps(endpoint: BadEndpoint) -> None:
    endpoint.stop()
    refused = await trouble_of(entry_for(endpoint))
    unknown = await trouble_of(EndpointEntry(url="http://nobody.invalid/", allow_http=True, connect_seconds=3.0))

    assert isinstance(refused, Asleep)
    assert isinstance(unknown, Asleep)
    assert str(refused).startswith("no connection")


async def test_a_place_that_takes_no_connection_sleeps() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        # Its queue is full with those.
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        try:
            trouble = await trouble_of(EndpointEntry(url=f"http://127.0.0.1:{port}/", connect_seconds=0.2))
        finally:
            for one in waiting:
                one.close()

    assert isinstance(trouble, Asleep)
    assert str(trouble) == "no connection within 0.2 s"


async def test_a_certificate_that_nobody_vouches_for_is_for_somebody_to_mend(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *made, *subject], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        trouble = await trouble_of(EndpointEntry(url=f"https://localhost:{port}/"))

    assert isinstance(trouble, Gone)
    assert str(trouble) == "its certificate is not trusted"


async def test_a_proxy_is_used_where_that_was_allowed_and_netrc_never(
    endpoint: BadEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine farm.invalid login me password netrcsecret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", endpoint.url.replace("//", "//me:p%40ss@"))
    entry = EndpointEntry(url="http://farm.invalid/vae", allow_http=True, connect_seconds=3.0)
    async with asker(entry, trust_env=True) as asking_it:
        answer = await asking_it.ask(QUESTION)
    assert answer.status == 200
    assert endpoint.asked[0].headers["Host"] == "farm.invalid"
    assert endpoint.asked[0].headers["Proxy-Authorization"] == "Basic bWU6cEBzcw=="
    assert "Authorization" not in endpoint.asked[0].headers

    assert isinstance(await trouble_of(entry), Asleep)
    assert endpoint.requests == 1


#: Ways to end that could show what was sent.
ENDS: dict[str, Callable[[BadEndpoint], Behaviour]] = {
    "its own words": lambda one: Says(401, f'{{"error": "{TOKEN} {PASSWORD} {QUERY_SECRET} p%40ss%2Fword"}}'),
    "a refusal": lambda one: Says(400, f'{{"error": "{TOKEN} {PASSWORD} {QUERY_SECRET}"}}'),
    "a redirect": lambda one: Says(307, headers={"Location": f"http://me:{PASSWORD}@x/?key={QUERY_SECRET}&{TOKEN}"}),
    "a reset": lambda one: Resets(),
    "a header": lambda one: Headers({"Content-Type": f"{TOKEN}/{QUERY_SECRET}", "shape": f"{TOKEN} {PASSWORD}"}),
    "a shape": lambda one: Headers({"shape": f"{TOKEN} {PASSWORD} {QUERY_SECRET}"}),
    "a body": lambda one: Says(200, f"<html>{TOKEN} {PASSWORD} {QUERY_SECRET}"),
}


@pytest.mark.parametrize("end", [*ENDS, "no connection"])
@pytest.mark.parametrize("who", ["token", "user"])
def test_no_secret_is_shown_however_a_request_ends(
    endpoint: BadEndpoint, end: str, who: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("A_TOKEN", TOKEN)
    # One of them says who asks; the endpoint cannot know what the other one is.
    user, token_env, secrets = ("", "A_TOKEN", [TOKEN]) if who == "token" else ("me:p%40ss%2Fword@", None, [PASSWORD])
    secrets += [QUERY_SECRET, *(["p%40ss%2Fword", "bWU6cEBzcy93b3Jk"] if who == "user" else [])]
    url = f"http://{user}127.0.0.1:{endpoint.port}/?key={QUERY_SECRET}"
    if end == "no connection":
        endpoint.stop()
    else:
        endpoint.behave(then=ENDS[end](endpoint))
    entry = entry_for(endpoint, url=url, token_env=token_env)
    with asking(entry, pacing=NEVER_MENDED) as decoder:
        with pytest.raises(FarmError) as caught:
            decoder.decode(Batch((job(decoder),)))
        eventually("it is told", lambda: decoder.describe()["endpoints"][0]["last_error"] or end == "a refusal")
        shown: list[Any] = [
            *traceback.format_exception(caught.value),
            caplog.text,
            decoder.describe(),
            vars(decoder),
            [vars(one) for circle in decoder._circles.values() for one in circle.endpoints],
            [vars(one._address) for circle in decoder._circles.values() for one in circle.endpoints],
            entry,
        ]

    for secret in secrets:
        for text in shown:
            # The address keeps the query, which is sent, but its repr is without.
            text = re.sub(r"URL\([^)]*\)", "", repr(text))
            assert secret not in text


def test_an_address_shows_neither_query_nor_user() -> None:
    address = Address(EndpointEntry(url=f"https://me:{PASSWORD.replace('/', '%2F')}@farm.example/x?key={QUERY_SECRET}"))

    assert repr(address) == "Address(https://farm.example/x)"


def test_times_of_a_slow_endpoint_are_its_latency(endpoint: BadEndpoint) -> None:
    endpoint.behave(then=Well(0.2))
    with asking(entry_for(endpoint)) as decoder:
        assert decoder.expected_seconds("demo") == 1.0
        began = time.monotonic()
        decoder.decode(Batch((job(decoder),)))
        took = time.monotonic() - began

        assert 0.2 <= (decoder.expected_seconds("demo") or 0.0) <= took
