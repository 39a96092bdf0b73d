"""Jobs at endpoints that misbehave: each ends right, with as many requests as it may take."""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import eventually
from tests.worker.items import item, randn
from tests.worker.remote.asked import DEMO, FAST, NEVER_MENDED, asking, begin, changes, entry_for, is_right, job, listen
from tests.worker.remote.bad_endpoint import (
    BadEndpoint,
    Behaviour,
    ColdStart,
    Drips,
    HalfABody,
    Hangs,
    Headers,
    Resets,
    Says,
    TooMuch,
    Well,
)

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.endpoints import read_endpoints
from vaefarm_shared.errors import (
    ConfigurationError,
    EncodesNothing,
    EndpointFailed,
    EndpointRefused,
    EndpointsAway,
    UnknownVae,
)
from vaefarm_worker.decoder import Batch, ServedVae
from vaefarm_worker.fake_decoder import stripes
from vaefarm_worker.remote.address import Address
from vaefarm_worker.remote.endpoint import Endpoint
from vaefarm_worker.remote.pacing import Pacing
from vaefarm_worker.remote.remote_decoder import RemoteDecoder, RemoteVae
from vaefarm_worker.remote.trouble import Gone

HTML = "<html><title>502 Bad Gateway</title></html>"

#: What gives no picture though the endpoint may be well, and what is said of it.
BAD: dict[str, tuple[Behaviour, str]] = {
    "503": (Says(503), "503: it was told to"),
    "502 with HTML": (Says(502, HTML), "502: Bad Gateway"),
    "200 with HTML": (Says(200, HTML), "of type 'text/html'"),
    "reset": (Resets(), "the connection broke"),
    "reset half way": (Resets(half_way=True), "broke off in the middle"),
    "half a body": (HalfABody(), "broke off in the middle"),
    "wrong type": (Headers({"Content-Type": "image/png"}), "of type 'image/png'"),
    "wrong shape": (Headers({"shape": "[1, 3, 64, 64]"}), "shape is '[1, 3, 64, 64]'"),
    "packed": (Headers({"Content-Encoding": "gzip"}), "packed (gzip)"),
    "too much": (TooMuch(), "more than the 12288 bytes"),
    "hang": (Hangs(), "no whole answer within 1 s"),
    "slow drip": (Drips(0.01), "no whole answer within 1 s"),
}

#: Seconds for those that never come to an end. The others have as long as a busy machine takes.
TIMEOUTS = {"hang": 1.0, "slow drip": 1.0}


@pytest.fixture
def endpoint():
    with BadEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def other():
    with BadEndpoint() as endpoint:
        yield endpoint


def test_a_job_is_decoded_and_says_where(endpoint: BadEndpoint) -> None:
    with asking(entry_for(endpoint, name="near")) as decoder:
        asked = job(decoder)
        (decoded,) = decoder.decode(Batch((asked,)))

        assert is_right(decoded, asked)
        assert decoded.endpoint == "near"
        assert endpoint.requests == 1


@pytest.mark.parametrize("kind", BAD)
def test_what_goes_wrong_once_is_asked_again(endpoint: BadEndpoint, kind: str) -> None:
    behaviour, said = BAD[kind]
    endpoint.behave(behaviour)
    with asking(entry_for(endpoint, timeout_seconds=TIMEOUTS.get(kind, 30.0))) as decoder:
        asked = job(decoder)
        (decoded,) = decoder.decode(Batch((asked,)))
        (state,) = read_endpoints(decoder.describe())

        assert is_right(decoded, asked)
        assert endpoint.requests == 2
        assert (state.succeeded, state.failed, state.error_rate, state.state) == (1, 1, 0.5, "closed")
        assert said in state.last_error


@pytest.mark.parametrize("kind", BAD)
def test_what_goes_wrong_always_opens_the_circuit(
    endpoint: BadEndpoint, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    listen(caplog)
    endpoint.behave(then=BAD[kind][0])
    entry = entry_for(endpoint, timeout_seconds=TIMEOUTS.get(kind, 30.0))
    with asking(entry, pacing=NEVER_MENDED | {"failures_to_open": 2}) as decoder:
        with pytest.raises(EndpointsAway):
            decoder.decode(Batch((job(decoder),)))

        assert changes(caplog) == ["closed -> open"]
        assert endpoint.requests == 2
        assert not decoder.is_hot("demo")
        assert (decoder.slots("demo"), decoder.free_slots("demo"), decoder.max_pixels_now("demo")) == (0, 0, 0)
        assert decoder.expected_seconds("demo") is None
        assert BAD[kind][1] in str(decoder.load_error("demo"))


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_endpoint_that_is_gone_is_left_alone_at_once_and_a_known_latent_brings_it_back(
    endpoint: BadEndpoint, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    listen(caplog)
    endpoint.behave(Says(status), Says(status))
    back = threading.Event()
    with asking(entry_for(endpoint)) as decoder:
        decoder.on_load(lambda: back.set() if decoder.is_hot("demo") else None)
        with pytest.raises(EndpointsAway, match=f"{status}: it was told to"):
            decoder.decode(Batch((job(decoder),)))
        assert back.wait(30)
        asked = job(decoder)
        (decoded,) = decoder.decode(Batch((asked,)))

        assert is_right(decoded, asked)
        assert changes(caplog) == [
            "closed -> open",
            "open -> half-open",
            "half-open -> open",
            "open -> half-open",
            "half-open -> closed",
        ]
        assert endpoint.requests == 4


def test_nothing_is_sent_while_the_circuit_is_open(endpoint: BadEndpoint) -> None:
    endpoint.behave(Says(404))
    with asking(entry_for(endpoint), pacing=NEVER_MENDED) as decoder:
        for _ in range(5):
            with pytest.raises(EndpointsAway):
                decoder.decode(Batch((job(decoder),)))

        assert endpoint.requests == 1


def test_a_redirect_is_not_followed_and_its_target_never_asked(
    endpoint: BadEndpoint, other: BadEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "hf_very_secret")
    endpoint.behave(then=Says(307, headers={"Location": other.url}))
    with asking(entry_for(endpoint, token_env="A_TOKEN"), pacing=NEVER_MENDED) as decoder:
        with pytest.raises(EndpointsAway, match="redirects"):
            decoder.decode(Batch((job(decoder),)))

        assert (endpoint.requests, other.requests) == (1, 0)


def test_what_an_endpoint_refuses_is_the_jobs_end_in_one_request(endpoint: BadEndpoint) -> None:
    endpoint.behave(Says(400, '{"error": "latents of\\nno use"}'))
    with asking(entry_for(endpoint, name="near")) as decoder:
        with pytest.raises(EndpointRefused, match="near refuses it: 400: latents of no use"):
            decoder.decode(Batch((job(decoder),)))

        assert endpoint.requests == 1
        assert decoder.is_hot("demo")


def test_what_one_endpoint_refuses_another_may_decode(endpoint: BadEndpoint, other: BadEndpoint) -> None:
    endpoint.behave(then=Says(413))
    with asking(entry_for(endpoint, name="small"), entry_for(other, name="large")) as decoder:
        asked = job(decoder)
        (decoded,) = decoder.decode(Batch((asked,)))

        assert is_right(decoded, asked)
        assert (decoded.endpoint, endpoint.requests, other.requests) == ("large", 1, 1)


def test_a_picture_too_large_for_every_endpoint_is_never_sent(endpoint: BadEndpoint) -> None:
    with asking(entry_for(endpoint, max_pixels=64 * 63)) as decoder:
        asked = job(decoder)
        with pytest.raises(EndpointRefused, match="max_pixels"):
            decoder.decode(Batch((asked,)))

        assert "max_pixels" in (decoder.refusal(asked.spec) or "")
        assert decoder.max_pixels("demo") == 64 * 63
        assert endpoint.requests == 0


def test_a_failure_is_tried_at_another_endpoint_first(endpoint: BadEndpoint, other: BadEndpoint) -> None:
    endpoint.behave(then=Says(500))
    with asking(entry_for(endpoint), entry_for(other), pacing=NEVER_MENDED) as decoder:
        asked = [job(decoder, seed=seed) for seed in range(8)]
        for one in asked:
            assert is_right(decoder.decode(Batch((one,)))[0], one)

        assert endpoint.requests <= 3
        assert other.requests == 8


def test_a_job_that_breaks_its_endpoint_fails_and_others_go_on(endpoint: BadEndpoint) -> None:
    with asking(entry_for(endpoint)) as decoder:
        poison, sound = job(decoder, seed=1), job(decoder, seed=2)
        endpoint.behave_on(poison.latents.array.tobytes(), Says(500))
        ends: list[Exception] = []
        while not any(isinstance(end, EndpointFailed) for end in ends):
            assert len(ends) < 5
            with pytest.raises((EndpointsAway, EndpointFailed)) as caught:
                decoder.decode(Batch((poison,)))
            ends.append(caught.value)
            eventually("the circuit closes", lambda: decoder.is_hot("demo"))
            assert is_right(decoder.decode(Batch((sound,)))[0], sound)

        assert "gave no picture of it in 4 tries: 500: it was told to" in str(ends[-1])
        bodies = [request.body for request in endpoint.asked]
        assert bodies.count(poison.latents.array.tobytes()) == 4


def test_a_known_latent_judges_once_the_tries_are_used_up(endpoint: BadEndpoint) -> None:
    patient: dict[str, Any] = NEVER_MENDED | {"failures_to_open": 100}
    with asking(entry_for(endpoint), pacing=patient) as decoder:
        endpoint.behave(*[Resets()] * 4)
        with pytest.raises(EndpointFailed, match="in 4 tries"):
            decoder.decode(Batch((job(decoder),)))
        assert endpoint.requests == 5
        assert decoder.is_hot("demo")

        endpoint.behave(then=Resets())
        with pytest.raises(EndpointsAway):
            decoder.decode(Batch((job(decoder),)))
        assert endpoint.requests == 10
        assert not decoder.is_hot("demo")


def test_a_known_latent_that_is_put_off_opens_no_circuit(endpoint: BadEndpoint) -> None:
    patient: dict[str, Any] = NEVER_MENDED | {"failures_to_open": 100, "unnamed_rest": 0.01}
    endpoint.behave(*[Resets()] * 4, Says(429))
    with asking(entry_for(endpoint), pacing=patient) as decoder:
        with pytest.raises(EndpointsAway):
            decoder.decode(Batch((job(decoder),)))
        eventually("it has rested", lambda: decoder.is_hot("demo"))

        assert endpoint.requests == 5


def test_an_endpoint_that_rests_is_asked_when_it_said(endpoint: BadEndpoint) -> None:
    endpoint.behave(Says(429, headers={"Retry-After": "1"}))
    with asking(entry_for(endpoint)) as decoder:
        asked = job(decoder)
        waiting = begin(decoder, asked)
        eventually("it rests", lambda: not decoder.is_hot("demo"))
        (state,) = read_endpoints(decoder.describe())
        with pytest.raises(EndpointsAway, match="to be asked in"):
            decoder.decode(Batch((job(decoder, seed=1),)))

        assert endpoint.requests == 1
        assert state.state == "closed"
        assert state.resting_until > 0
        assert is_right(waiting.result(30), asked)
        assert endpoint.requests == 2


def test_nobody_waits_for_an_endpoint_that_rests_for_long(endpoint: BadEndpoint) -> None:
    endpoint.behave(Says(503, headers={"Retry-After": "3600"}))
    with asking(entry_for(endpoint)) as decoder:
        with pytest.raises(EndpointsAway):
            decoder.decode(Batch((job(decoder),)))

        assert endpoint.requests == 1
        assert decoder.load_error("demo") is not None


def test_the_end_of_a_rest_is_told(endpoint: BadEndpoint) -> None:
    endpoint.behave(Says(429, headers={"Retry-After": "1"}))
    back = threading.Event()
    with asking(entry_for(endpoint), pacing=FAST | {"longest_wait_for_rest": 0.0}) as decoder:
        with pytest.raises(EndpointsAway):
            decoder.decode(Batch((job(decoder),)))
        decoder.on_load(lambda: back.set() if decoder.is_hot("demo") else None)

        assert back.wait(30)
        assert endpoint.requests == 1


def test_known_latents_come_after_waits_that_double_up_to_the_longest(endpoint: BadEndpoint) -> None:
    endpoint.behave(then=Says(404))
    with asking(entry_for(endpoint), pacing=FAST | {"first_probe": 0.04, "longest_probe": 0.16}) as decoder:
        with pytest.raises(EndpointsAway):
            decoder.decode(Batch((job(decoder),)))
        eventually("five known latents are sent", lambda: endpoint.requests == 6)
    times = [request.at for request in endpoint.asked]
    waits = [later - earlier for earlier, later in pairwise(times)]

    # A random half of each wait is left out.
    assert all(wait >= least / 2 for wait, least in zip(waits, (0.04, 0.08, 0.16, 0.16, 0.16), strict=True))
    assert len({request.body for request in endpoint.asked}) == 2


def test_a_cold_start_costs_the_job_nothing(endpoint: BadEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    listen(caplog)
    endpoint.behave(then=ColdStart(0.3))
    with asking(entry_for(endpoint)) as decoder:
        asked = job(decoder)
        with pytest.raises(EndpointsAway, match="503: 503 Service Unavailable"):
            decoder.decode(Batch((asked,)))
        eventually("it is warm", lambda: decoder.is_hot("demo"))

        assert is_right(decoder.decode(Batch((asked,)))[0], asked)
        assert changes(caplog)[0] == "closed -> open"
        assert changes(caplog)[-1] == "half-open -> closed"


def test_an_endpoint_that_was_down_is_asked_again_once_it_is_back(endpoint: BadEndpoint) -> None:
    endpoint.stop()
    with asking(entry_for(endpoint)) as decoder:
        asked = job(decoder)
        with pytest.raises(EndpointsAway, match="no connection"):
            decoder.decode(Batch((asked,)))
        endpoint.start()
        eventually("it is back", lambda: decoder.is_hot("demo"))

        assert is_right(decoder.decode(Batch((asked,)))[0], asked)


def test_no_endpoint_is_asked_more_at_a_time_than_it_may(endpoint: BadEndpoint, other: BadEndpoint) -> None:
    endpoint.behave(then=Well(0.4))
    other.behave(then=Well(0.4))
    entries = entry_for(endpoint, concurrency=32), entry_for(other, concurrency=3)
    with asking(*entries) as decoder:
        assert decoder.free_slots("demo") == decoder.slots("demo") == 35
        asked = [job(decoder, seed=seed) for seed in range(100)]
        waiting = [begin(decoder, one) for one in asked]
        assert decoder.free_slots("demo") == 0
        decoded = [one.result(30) for one in waiting]

        assert all(is_right(*pair) for pair in zip(decoded, asked, strict=True))
        assert endpoint.most_in_flight == 32
        assert other.most_in_flight == 3
        assert endpoint.requests + other.requests == 100
        assert decoder.free_slots("demo") == 35


def test_those_who_wait_for_a_slot_go_back_when_the_circuit_opens(endpoint: BadEndpoint) -> None:
    endpoint.behave(Well(0.2), then=Says(404))
    with asking(entry_for(endpoint, concurrency=1), pacing=NEVER_MENDED) as decoder:
        waiting = [begin(decoder, job(decoder, seed=seed)) for seed in range(10)]

        assert waiting[0].result(30).endpoint is not None
        assert all(isinstance(one.exception(30), EndpointsAway) for one in waiting[1:])
        assert endpoint.requests == 2


def test_a_job_of_several_pictures_is_asked_for_each_at_the_same_time(endpoint: BadEndpoint) -> None:
    endpoint.behave(Well(0.2), Well(0.1), Says(503))
    with asking(entry_for(endpoint)) as decoder:
        asked = job(decoder, count=3)
        (decoded,) = decoder.decode(Batch((asked,)))

        assert is_right(decoded, asked)
        assert endpoint.requests == 4
        assert endpoint.most_in_flight > 1
        assert decoder.free_slots("demo") == 8


def test_files_and_pixels_of_one_job_become_files(endpoint: BadEndpoint, other: BadEndpoint) -> None:
    entries = entry_for(endpoint, concurrency=1, pass_through=True), entry_for(other, concurrency=1)
    for one in (endpoint, other):
        one.behave(then=Well(0.05))
    with asking(*entries) as decoder:
        asked = job(decoder, count=4)
        (decoded,) = decoder.decode(Batch((asked,)))

        pictures = [np.asarray(Image.open(io.BytesIO(file))) for file in decoded.files]
        assert np.array_equal(pictures, stripes(asked))
        assert endpoint.requests
        assert other.requests


def test_a_reproducible_job_takes_one_request_and_an_endpoint_that_promises(endpoint: BadEndpoint) -> None:
    with asking(entry_for(endpoint)) as decoder:
        asked = job(decoder, count=3, reproducible=True)
        assert is_right(decoder.decode(Batch((asked,)))[0], asked)
        assert endpoint.requests == 1

        endpoint.behave(then=Headers({"x-reproducible": "false"}))
        with pytest.raises(EndpointRefused, match="reproducible"):
            decoder.decode(Batch((asked,)))
        assert endpoint.requests == 2
        assert decoder.is_hot("demo")


def test_the_first_generation_of_the_protocol_is_spoken(endpoint: BadEndpoint) -> None:
    with asking(entry_for(endpoint, protocol="v1")) as decoder:
        asked = job(decoder)

        assert is_right(decoder.decode(Batch((asked,)))[0], asked)


def test_a_raw_tensor_and_a_file_come_as_they_are(endpoint: BadEndpoint) -> None:
    with asking(entry_for(endpoint, pass_through=True)) as decoder:
        raw, file = decoder.decode(Batch((job(decoder, output_type="pt"), job(decoder))))

        assert raw.tensor is not None
        assert raw.tensor.array.dtype == np.float16
        assert file.files[0].startswith(b"\x89PNG")


def test_a_slow_request_is_sent_twice_and_the_first_picture_wins(endpoint: BadEndpoint, other: BadEndpoint) -> None:
    entries = entry_for(endpoint, name="first", hedge=True), entry_for(other, name="second", hedge=True)
    with asking(*entries, pacing=FAST | {"requests_per_hedge": 1}) as decoder:
        while min(endpoint.requests, other.requests) < 40:
            decoder.decode(Batch(tuple(job(decoder, seed=seed) for seed in range(8))))
        endpoint.behave(then=Hangs())
        asked = job(decoder, seed=1000)

        def hung() -> int:
            # Those of before may still be on their way.
            return sum(one.body == asked.latents.array.tobytes() for one in endpoint.asked)

        while not hung():
            (decoded,) = decoder.decode(Batch((asked,)))
            assert is_right(decoded, asked)
        states = {state.name: state for state in read_endpoints(decoder.describe())}

        assert decoded.endpoint == "second"
        assert states["first"].failed == states["second"].failed == 0
        assert states["first"].in_flight == states["second"].in_flight == 0
        assert hung() == 1


def test_one_request_in_twenty_is_sent_twice_at_most(endpoint: BadEndpoint, other: BadEndpoint) -> None:
    entries = entry_for(endpoint, hedge=True), entry_for(other, hedge=True)
    with asking(*entries) as decoder:
        decoder.decode(Batch(tuple(job(decoder, seed=seed) for seed in range(80))))
        for one in (endpoint, other):
            one.behave(then=Well(0.3))
        decoder.decode(Batch(tuple(job(decoder, seed=seed) for seed in range(8))))

        assert 88 < endpoint.requests + other.requests <= 88 + 88 // 20


def test_nothing_is_sent_twice_unless_the_entry_says_so(endpoint: BadEndpoint, other: BadEndpoint) -> None:
    with asking(entry_for(endpoint), entry_for(other)) as decoder:
        asked = [job(decoder, seed=seed) for seed in range(60)]
        decoder.decode(Batch(tuple(asked)))
        endpoint.behave(Well(0.3))
        other.behave(Well(0.3))
        decoder.decode(Batch(tuple(asked[:2])))

        assert endpoint.requests + other.requests == 62


def test_closing_gives_every_job_back(endpoint: BadEndpoint) -> None:
    endpoint.behave(then=Hangs())
    with asking(entry_for(endpoint, concurrency=2)) as decoder:
        waiting = [begin(decoder, job(decoder, seed=seed)) for seed in range(4)]
        eventually("two are out", lambda: endpoint.requests == 2)
        decoder.close()
        ends = [one.exception(0) for one in (*waiting, begin(decoder, job(decoder)))]

        assert [type(end) for end in ends] == [EndpointsAway] * 5


def test_what_is_told_of_a_job_may_go_wrong_itself(endpoint: BadEndpoint) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("not ours")

    with asking(entry_for(endpoint)) as decoder:
        decoder.start(job(decoder), fail)
        asked = job(decoder)

        assert is_right(decoder.decode(Batch((asked,)))[0], asked)


def test_vaes_that_share_an_endpoint_have_circuits_of_their_own(endpoint: BadEndpoint) -> None:
    vaes = [RemoteVae(DEMO.model_copy(update={"id": vae}), (entry_for(endpoint),)) for vae in ("one", "two")]
    decoder = RemoteDecoder(vaes)
    try:
        for vae in ("one", "two"):
            assert decoder.vaes[vae].encodes is False
        assert [state.vae for state in read_endpoints(decoder.describe())] == ["one", "two"]
        with pytest.raises(UnknownVae):
            decoder.is_hot("three")
        with pytest.raises(EncodesNothing):
            decoder.encode(Batch((item(decoder, "one", randn(1, 4, 8, 8)),)))
    finally:
        decoder.close()


def test_what_cannot_be_asked_is_told_before_anything_is(endpoint: BadEndpoint) -> None:
    here = entry_for(endpoint)
    wrong = {
        "A_TOKEN_THAT_IS_NOT_SET is not set": here.model_copy(update={"token_env": "A_TOKEN_THAT_IS_NOT_SET"}),
        "is not https": here.model_copy(update={"url": "http://farm.example/?key=secret"}),
        "expected one of them": here.model_copy(update={"url": "https://u:p@farm.example", "token_env": "HOME"}),
    }
    for said, entry in wrong.items():
        with pytest.raises(ConfigurationError, match=said) as caught:
            RemoteDecoder([RemoteVae(DEMO, (entry,))])
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="latent_channels"):
        RemoteDecoder([RemoteVae(VaeEntry(id="mine"), (here,))])
    with pytest.raises(ConfigurationError, match="no endpoint"):
        RemoteDecoder([RemoteVae(DEMO, ())])


def test_what_one_endpoint_refuses_while_the_other_is_away_is_refused_and_asked_once(
    endpoint: BadEndpoint, other: BadEndpoint
) -> None:
    endpoint.behave(then=Says(400))
    other.behave(then=Says(404))
    pacing = NEVER_MENDED | {"longest_wait_for_rest": 0.1}
    entries = entry_for(endpoint, name="first"), entry_for(other, name="second")
    with asking(*entries, pacing=pacing) as decoder:
        # Both orders end so: whoever is asked first, the other does not decode it.
        with pytest.raises(EndpointRefused, match="endpoint first refuses it.*second is left alone"):
            begin(decoder, job(decoder)).result(30)
        assert decoder.is_hot("demo")
        assert endpoint.requests == 1


def test_what_one_endpoint_refuses_waits_for_the_other_that_is_soon_back(
    endpoint: BadEndpoint, other: BadEndpoint
) -> None:
    endpoint.behave(then=Says(400))
    other.behave(Says(404))
    with asking(entry_for(endpoint, name="first"), entry_for(other, name="second")) as decoder:
        asked = job(decoder)
        assert is_right(begin(decoder, asked).result(30), asked)


@pytest.mark.parametrize("turns", range(8))
def test_a_circuit_that_opens_again_at_the_moment_it_closed_is_mended_again(endpoint: BadEndpoint, turns: int) -> None:
    async def run() -> None:
        entry = entry_for(endpoint)
        served = ServedVae("demo", DEMO.contract or pytest.fail("it has one"), "remote", encodes=False)
        one = Endpoint(DEMO, served, entry, Address(entry), Pacing(first_probe=0.02, longest_probe=0.05))
        with ThreadPoolExecutor(1) as readers:
            one.open(readers, lambda: None)
            one.health.failed(Gone("404"), fatal=True)
            async with asyncio.timeout(30):
                while one.health.circuit != "closed":
                    await asyncio.sleep(0)
                for _ in range(turns):
                    await asyncio.sleep(0)
                one.health.failed(Gone("404"), fatal=True)
                while one.health.circuit != "closed":
                    await asyncio.sleep(0.005)
            await one.close()

    asyncio.run(run())


def test_a_job_that_alone_is_told_503_uses_its_tries_in_the_end(endpoint: BadEndpoint) -> None:
    poison, pacing = randn(1, 4, 8, 8, seed=77), FAST | {"first_backoff": 0.0001, "longest_backoff": 0.001}
    endpoint.behave_on(poison.numpy().tobytes(), Says(503))
    with asking(entry_for(endpoint, concurrency=2), pacing=pacing) as decoder:
        asked, rounds = item(decoder, "demo", poison), 0
        while True:
            rounds += 1
            others = [begin(decoder, job(decoder, seed=rounds * 100 + seed)) for seed in range(4)]
            told = begin(decoder, asked).exception(30)
            for one in others:
                one.exception(30)
            if not isinstance(told, EndpointsAway):
                break
            assert rounds < 400
            eventually("the endpoint is asked again", lambda: decoder.is_hot("demo"))
        assert isinstance(told, EndpointFailed)
        assert rounds > 4
