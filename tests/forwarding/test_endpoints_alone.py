"""A worker without a device: whatever its endpoint does, every job ends right."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import redis
import requests
import torch
from tests.conftest import eventually
from tests.forwarding.conftest import QUICK, entry, remote, stripes
from tests.served_gateway import ServedGateway
from tests.worker.items import decode
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
)

from vaefarm_producer import Farm, JobFailed
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.remote.remote_decoder import RemoteDecoder, RemoteVae

#: Jobs of each test.
JOBS = 6


@pytest.fixture(autouse=True)
def every_change_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def latents(count: int = JOBS) -> list[torch.Tensor]:
    return list(torch.randn(count, 1, 4, 8, 8, generator=torch.Generator().manual_seed(6)))


def pictures(farm: Farm, sent: list[torch.Tensor], jobs: list[Any]) -> None:
    """Every job has the picture that the device would have made."""
    local = stripes()
    for one, job in zip(sent, jobs, strict=True):
        expected = decode(local, "demo", one).pixels
        assert expected is not None
        assert np.array_equal(np.asarray(job.image(timeout=60)), expected[0])


@dataclass(frozen=True)
class Case:
    """How an endpoint misbehaves, what its circuit goes through, and how often it is asked at most."""

    behaviours: tuple[Behaviour, ...]
    circuit: tuple[str, ...]
    #: Requests beyond one for each job and one for each known latent.
    most_more: int
    attempts: int = 1


OPENS = ("open", "half-open", "closed")

CASES = {
    "503 with Retry-After": Case((Says(503, headers={"Retry-After": "1"}),), (), 1),
    "429 with Retry-After": Case((Says(429, headers={"Retry-After": "1"}),), (), 1),
    "hangs": Case((Hangs(),), (), 1),
    # For as long as it may take twice: then, since it decodes others, the job may be at fault.
    "hangs twice": Case((Hangs(), Hangs()), (), 3, attempts=2),
    "half a body": Case((HalfABody(),), (), 1),
    "another content type": Case((Headers({"Content-Type": "text/plain"}),), (), 1),
    "a page of HTML": Case((Says(200, "<html>Welcome</html>"),), (), 1),
    "a page of HTML as 502": Case((Says(502, "<html>Bad Gateway</html>"),), (), 1),
    "no end": Case((TooMuch(),), (), 1),
    "drips": Case((Drips(0.2),), (), 1),
    "resets": Case((Resets(), Resets(half_way=True)), (), 2),
    "three failures": Case((Says(500),) * 3, OPENS, 3),
    "404": Case((Says(404),), OPENS, 1),
    "401": Case((Says(401),), OPENS, 1),
    "starts for a while": Case((Says(503),) * 4, ("open", "half-open", *OPENS), 4),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_whatever_an_endpoint_does_each_job_ends_with_its_picture(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.behave(*case.behaviours)
    sent = latents()
    with serving(None, remote(entry(endpoint.url, concurrency=1))):
        jobs = farm.submit_many(sent, vae="demo")
        pictures(farm, sent, jobs)

    records = [job.record() for job in jobs]
    assert max(record.attempts for record in records) <= case.attempts
    assert {record.report.endpoint for record in records if record.report} == {"far"}
    seen = circuit(caplog)
    assert seen == list(case.circuit)
    known = seen.count("half-open")
    assert endpoint.requests <= JOBS + case.most_more + known


def circuit(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the circuit went through, by what was logged of it."""
    changes = [message for message in caplog.messages if message.startswith("endpoint far of demo: ")]
    return [message.split(" -> ")[1].split(":")[0] for message in changes if " -> " in message]


def test_what_is_canceled_leaves_its_slot_at_the_endpoint_to_others(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    endpoint.behave(Hangs(), Hangs())
    far = entry(endpoint.url, concurrency=2, timeout_seconds=3600, read_seconds=3600)
    with serving(None, remote(far)):
        hanging = farm.submit_many(latents(2), vae="demo")
        eventually("they are out", lambda: endpoint.requests == 2)
        for job in hanging:
            job.cancel()
        sent = latents()
        pictures(farm, sent, farm.submit_many(sent, vae="demo"))
        eventually("nothing is kept of it", lambda: farm.endpoints()[0].in_flight == 0)
    assert {job.status().value for job in hanging} == {"canceled"}


def test_a_redirect_is_not_followed_and_the_job_waits_in_its_queue(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with BadEndpoint() as elsewhere:
        endpoint.behave(then=Says(307, headers={"Location": elsewhere.url}))
        with serving(None, remote(entry(endpoint.url))):
            (job,) = farm.submit_many(latents(1), vae="demo")
            eventually("the circuit opens", lambda: circuit(caplog)[:1] == ["open"])
            eventually("the job is back in its queue", lambda: job.status() == "queued")
            endpoint.behave()
            assert job.image(timeout=60).size == (64, 64)
        assert job.record().attempts == 1
        assert elsewhere.requests == 0


def test_what_an_endpoint_refuses_fails_with_its_words_and_is_asked_once(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    endpoint.behave(then=Says(400, '{"error": "Expected `height` in parameters."}'))
    with serving(None, remote(entry(endpoint.url))):
        (job,) = farm.submit_many(latents(1), vae="demo")
        with pytest.raises(JobFailed, match="endpoint far refuses it: .*Expected `height` in parameters"):
            job.image(timeout=60)
    assert endpoint.requests == 1


def test_a_job_that_breaks_its_endpoint_fails_after_its_attempts_and_others_do_not(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    sent = latents()
    endpoint.behave_on(sent[2].numpy().tobytes(), Resets())
    with serving(None, remote(entry(endpoint.url, concurrency=2))):
        jobs = farm.submit_many(sent, vae="demo")
        with pytest.raises(JobFailed, match="gave no picture of it in"):
            jobs[2].image(timeout=60)
        others = [place for place in range(JOBS) if place != 2]
        pictures(farm, [sent[place] for place in others], [jobs[place] for place in others])
    assert jobs[2].record().attempts == 3
    assert {jobs[place].record().attempts for place in others} == {1}


def test_a_job_that_its_endpoint_alone_forbids_fails_after_its_attempts_and_others_do_not(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    sent = latents()
    # As a firewall in front of it does, which takes some bytes for an attack.
    endpoint.behave_on(sent[2].numpy().tobytes(), Says(403, "<html>Forbidden</html>"))
    with serving(None, remote(entry(endpoint.url, concurrency=2))):
        jobs = farm.submit_many(sent, vae="demo")
        with pytest.raises(JobFailed, match="gave no picture of it in .* tries: 403"):
            jobs[2].image(timeout=30)
        others = [place for place in range(JOBS) if place != 2]
        pictures(farm, [sent[place] for place in others], [jobs[place] for place in others])
    assert jobs[2].record().attempts == 3
    assert {jobs[place].record().attempts for place in others} == {1}
    assert sum(one.body == sent[2].numpy().tobytes() for one in endpoint.asked) <= 12


def test_a_job_that_no_endpoint_can_be_asked_for_fails_with_the_reason(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    with serving(None, remote(entry(endpoint.url))):
        job = farm.encode(torch.zeros(1, 3, 64, 64), vae="demo")
        eventually("it was handed back", lambda: job.record().last_error or job.status() == "failed")
    assert "encode" in str(job.record().last_error or job.record().reason)
    assert endpoint.requests == 0


@pytest.mark.slow
def test_an_endpoint_that_starts_for_twenty_seconds_costs_no_attempt(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.behave(then=ColdStart(20.0))
    sent = latents()
    with serving(None, remote(entry(endpoint.url))):
        jobs = farm.submit_many(sent, vae="demo")
        pictures(farm, sent, jobs)
    assert {job.record().attempts for job in jobs} == {1}
    seen = circuit(caplog)
    assert seen[0] == "open"
    assert seen[-2:] == ["half-open", "closed"]
    # One known latent for each time that it was tried, and few jobs before.
    assert endpoint.requests <= JOBS + seen.count("half-open") + 8


def test_a_stopping_worker_hands_back_what_its_endpoint_does_not_answer(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], settings: Any, connection: redis.Redis
) -> None:
    endpoint.behave(then=Hangs())
    with serving(None, remote(entry(endpoint.url, read_seconds=60, timeout_seconds=60)), drain_seconds=0.2):
        jobs = farm.submit_many(latents(), vae="demo")
        eventually("they are out", lambda: endpoint.requests == JOBS)
    assert {job.status().value for job in jobs} == {"queued"}
    assert {job.record().attempts for job in jobs} == {0}
    assert not connection.exists("vaefarm:leases")


def test_a_gateway_says_at_once_that_nobody_decodes_a_vae_whose_endpoints_are_away(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaefarm_worker.worker.HEARTBEAT_SECONDS", 0.1)
    # Its own: one that lives as long as the session would take other tests' webhooks.
    gateway = ServedGateway(settings)
    gateway.start()
    url = f"{gateway.url}/hf/demo/health"
    try:
        with serving(None, remote(entry(endpoint.url))):
            eventually("it is served", lambda: requests.get(url, timeout=10).status_code == 200)
            endpoint.behave(then=Says(404))
            job = farm.submit(latents(1)[0], vae="demo")
            eventually("it is not", lambda: requests.get(url, timeout=10).status_code == 503)
            endpoint.behave()
            assert job.wait(timeout=30) == "finished"
            eventually("it is served again", lambda: requests.get(url, timeout=10).status_code == 200)
    finally:
        gateway.stop()


class Stumbles(RemoteDecoder):
    """Goes wrong when a forwarder first asks for its slots."""

    has_stumbled = False

    def free_slots(self, vae: str) -> int:
        if threading.current_thread().name == "vaefarm-forwarder" and not self.has_stumbled:
            self.has_stumbled = True
            raise RuntimeError("stumbled")
        return super().free_slots(vae)


def test_a_forwarder_goes_on_after_whatever_went_wrong_as_it_looked_for_jobs(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    by = Stumbles([RemoteVae(Catalogue.load()["demo"], (entry(endpoint.url),))], pacing=QUICK)
    sent = latents(2)
    with serving(None, by):
        pictures(farm, sent, farm.submit_many(sent, vae="demo"))
    assert by.has_stumbled
    assert "0 jobs could not be forwarded" in caplog.messages
