"""A device and endpoints as one pool: who decodes what, and what becomes of it when one of them fails."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis
import torch
from tests.conftest import eventually
from tests.forwarding.conftest import entry, remote, stripes
from tests.worker.items import decode
from tests.worker.remote.bad_endpoint import BadEndpoint, Says, Well

from vaefarm_producer import Farm, Job
from vaefarm_shared import quarantine
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import DeviceFault
from vaefarm_shared.settings import Settings
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.memory_mode import MemoryMode
from vaefarm_worker.pooled_decoder import PooledDecoder
from vaefarm_worker.worker import Worker


def latents(count: int, side: int = 8) -> list[torch.Tensor]:
    return list(torch.randn(count, 1, 4, side, side, generator=torch.Generator().manual_seed(7)))


def check(jobs: list[Job], sent: list[torch.Tensor]) -> Counter[str]:
    """Every job has its picture and cost one attempt; how many each side decoded."""
    local, sides = stripes(), Counter[str]()
    for job, one in zip(jobs, sent, strict=True):
        expected = decode(local, "demo", one).pixels
        assert expected is not None
        assert np.array_equal(np.asarray(job.image(timeout=60)), expected[0])
        record = job.record()
        assert record.attempts == 1
        assert record.report is not None
        sides[record.report.endpoint or record.report.device] += 1
    return sides


def test_a_device_that_keeps_up_decodes_alone(farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]) -> None:
    sent = latents(12)
    with serving(stripes(), remote(entry(endpoint.url))):
        jobs = []
        for one in sent:
            jobs.append(farm.submit(one, vae="demo"))
            jobs[-1].wait(timeout=30)
        assert check(jobs, sent) == {"fake": 12}
    assert endpoint.requests == 0


def test_what_the_device_is_behind_with_goes_to_the_endpoint_and_each_picture_says_who_made_it(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    sent = latents(40)
    # One picture a batch, a quarter of a second each: ten seconds for the device alone.
    with serving(stripes(seconds=0.25), remote(entry(endpoint.url, concurrency=4)), batch_pixels=1):
        sides = check(farm.submit_many(sent, vae="demo"), sent)
    assert sides["fake"] >= 2
    assert sides["far"] >= 20
    assert endpoint.most_in_flight <= 4


def test_when_every_circuit_is_open_the_device_has_it_all_and_the_endpoint_again_when_it_is_back(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    with serving(stripes(seconds=0.1), remote(entry(endpoint.url, concurrency=4)), batch_pixels=1):
        first = latents(30)
        jobs = farm.submit_many(first, vae="demo")
        eventually("the endpoint is at work", lambda: endpoint.requests > 3)
        endpoint.stop()
        sides = check(jobs, first)
        assert sides["fake"] >= 3

        endpoint.start()
        eventually("it is asked again", lambda: farm.endpoints()[0].state == "closed")
        second = latents(40)
        assert check(farm.submit_many(second, vae="demo"), second)["far"] >= 10


def test_what_an_endpoint_refuses_is_decoded_by_the_device(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    endpoint.behave(then=Says(400))
    sent = latents(30)
    with serving(stripes(seconds=0.1), remote(entry(endpoint.url)), batch_pixels=1):
        assert check(farm.submit_many(sent, vae="demo"), sent) == {"fake": 30}
    assert 0 < endpoint.requests <= 30


def test_a_picture_that_the_device_has_no_room_for_goes_to_the_endpoint(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    # Room for 64 x 64, as it turns out when a larger one is tried.
    local = stripes(memory_bytes=4096 * 64 * 64)
    sent = [*latents(2), *latents(2, side=16)]
    with serving(local, remote(entry(endpoint.url))):
        jobs = farm.submit_many(sent, vae="demo")
        assert check(jobs[2:], sent[2:]) == {"far": 2}
        assert check(jobs[:2], sent[:2])["fake"] >= 1


def test_pictures_larger_than_any_that_the_device_takes_are_claimed_for_the_endpoint_though_nothing_else_waits(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    # 1024 x 1024 and no more, as the device says beforehand.
    local = stripes(memory_bytes=4096 * 1024 * 1024, admit=True)
    sent = latents(1, side=192)
    with serving(local, remote(entry(endpoint.url, timeout_seconds=30, read_seconds=30))):
        assert check(farm.submit_many(sent, vae="demo"), sent) == {"far": 1}
        assert check(farm.submit_many(latents(1), vae="demo"), latents(1)) == {"fake": 1}


@pytest.mark.parametrize("has_device", [True, False])
def test_a_burst_ends_when_no_job_waits(
    farm: Farm,
    endpoint: BadEndpoint,
    settings: Settings,
    shared_lifelines: Callable[[Settings], Lifeline],
    has_device: bool,
) -> None:
    jobs = farm.submit_many(latents(5), vae="demo")
    decoder = PooledDecoder(stripes() if has_device else None, remote(entry(endpoint.url)))
    worker = Worker(settings, decoder, "here", shared_lifelines(settings))
    burst = threading.Thread(target=worker.run, kwargs={"burst": True}, daemon=True)
    burst.start()
    burst.join(20)
    try:
        assert not burst.is_alive()
        assert {job.status().value for job in jobs} == {"finished"}
    finally:
        worker.stop()
        burst.join(20)


def test_a_vae_that_the_device_does_not_serve_goes_to_its_endpoint(farm: Farm, serving: Callable[..., Any]) -> None:
    sdxl = FakeDecoder([Catalogue.load()["sdxl"]])
    with BadEndpoint(sdxl, "sdxl") as endpoint, serving(stripes(), remote(entry(endpoint.url), vae="sdxl")):
        here, there = farm.submit(latents(1)[0], vae="demo"), farm.submit(latents(1)[0], vae="sdxl")
        assert (here.wait(timeout=30), there.wait(timeout=30)) == ("finished", "finished")
        assert [job.record().report.device for job in (here, there)] == ["fake", "remote"]  # type: ignore[union-attr]


class Breaking(FakeDecoder):
    """A device that breaks with its fourth batch."""

    batches = 0

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        self.batches += 1
        if self.batches > 3:
            raise DeviceFault("CUDA error: an illegal memory access was encountered")
        return super().decode(batch, mode=mode)


def test_a_worker_whose_device_breaks_goes_on_with_its_endpoint(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], connection: redis.Redis
) -> None:
    sent = latents(30)
    local = Breaking([Catalogue.load()["demo"], Catalogue.load()["sdxl"]], 0.02)
    with serving(local, remote(entry(endpoint.url)), batch_pixels=1):
        sides = check(farm.submit_many(sent, vae="demo"), sent)
        assert sides["fake"] <= 3
        assert sides["far"] >= 27
        # Nobody decodes that one now, and it waits for who can.
        waiting = farm.submit(latents(1)[0], vae="sdxl")
        eventually("the farm is told", lambda: "illegal memory access" in str(farm.workers()[0].get("device_fault")))
        assert list(farm.workers()[0]["vaes"]) == ["demo"]  # type: ignore[call-overload]
        assert waiting.status() == "queued"
    (device,) = quarantine.read_devices(connection)
    assert (device.id, device.exits) == (local.device_id, 1)


def test_a_worker_that_lost_its_device_and_has_no_endpoint_left_ends(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaefarm_worker.worker.HOPELESS_SECONDS", 0.2)
    monkeypatch.setattr("vaefarm_worker.worker.HEARTBEAT_SECONDS", 0.1)
    endpoint.behave(then=Says(404))
    local = Breaking([Catalogue.load()["demo"]], 0.02)
    with serving(local, remote(entry(endpoint.url)), batch_pixels=1) as worker:
        jobs = farm.submit_many(latents(6), vae="demo")
        assert worker.ended.wait(60)
    with pytest.raises(DeviceFault, match="illegal memory access.*; and no endpoint answers"):
        worker.reraise()
    assert {job.status().value for job in jobs} == {"finished", "queued"}


def test_a_device_that_is_broken_from_the_start_leaves_the_endpoint_to_decode(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    class Broken(FakeDecoder):
        def self_test(self) -> None:
            raise DeviceFault("self-test of fake: VAE 'demo' decodes a known latent to another picture")

    sent = latents(5)
    with serving(Broken([Catalogue.load()["demo"]]), remote(entry(endpoint.url))):
        assert check(farm.submit_many(sent, vae="demo"), sent) == {"far": 5}


def test_jobs_that_an_endpoint_is_too_slow_for_stay_with_the_device(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any]
) -> None:
    endpoint.behave(then=Well(seconds=0.8))
    sent = latents(30)
    # Three seconds of work at a time; the endpoint takes most of one for each.
    with serving(stripes(seconds=0.1), remote(entry(endpoint.url, concurrency=1)), batch_pixels=1):
        sides = check(farm.submit_many(sent, vae="demo"), sent)
    assert sides["far"] <= 5
