"""The worker's command when its device fails: jobs handed back, the exit noted, the third one a quarantine."""

import threading

import pytest
import redis
import torch
from tests.conftest import eventually

from vaefarm_producer import Farm
from vaefarm_shared import quarantine
from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.errors import DeviceFault
from vaefarm_shared.settings import Settings
from vaefarm_worker import commands
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode

LATENTS = torch.zeros(1, 4, 8, 8)


class FailingDecoder(FakeDecoder):
    """A device that fails whatever it is given."""

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        raise DeviceFault("CUDA error: unspecified launch failure")


@pytest.fixture
def run_worker(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> object:
    def run(kind: type[FakeDecoder], name: str) -> None:
        def make(*_: object, **__: object) -> FakeDecoder:
            return kind([Catalogue.load()["demo"]])

        monkeypatch.setattr(commands, "make_decoder", make)
        monkeypatch.setattr(commands, "configure_logging", lambda *_: None)
        monkeypatch.setattr(commands, "stop_on_signals", lambda worker: None)
        monkeypatch.setenv("VAEFARM_LEASE_SECONDS", str(settings.lease_seconds))
        commands.worker("demo", redis=settings.redis_url.get_secret_value(), name=name, burst=True)

    return run


def test_a_device_that_fails_costs_no_job_an_attempt_and_is_quarantined_the_third_time(
    farm: Farm, connection: redis.Redis, run_worker: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(run_worker)
    jobs = farm.submit_many([LATENTS + n for n in range(20)], vae="demo")
    for time in (1, 2, 3):
        with pytest.raises(DeviceFault, match=rf"at fault \({time} times in ten minutes\): CUDA error"):
            run_worker(FailingDecoder, f"failing-{time}")
        assert {job.status().value for job in jobs} == {"queued"}
        assert {job.record().attempts for job in jobs} == {0}
        assert not connection.exists("vaefarm:leases")
    device = FakeDecoder([Catalogue.load()["demo"]]).device_id
    assert "unspecified launch failure" in str(quarantine.is_quarantined(connection, device))

    waiting = threading.Thread(target=run_worker, args=(FakeDecoder, "waiting"))
    waiting.start()
    eventually("it says that it waits", lambda: f"vaefarm devices --release {device}" in caplog.text)
    assert {job.status().value for job in jobs} == {"queued"}
    assert farm.release(device)
    waiting.join(60)

    assert {job.status().value for job in jobs} == {"finished"}


def chosen(vaes: str) -> list[VaeEntry]:
    return commands.chosen_entries(Catalogue.load(), vaes, None)


def test_vaes_are_named_once_each_in_the_order_given() -> None:
    assert [entry.id for entry in chosen("sdxl, demo,sdxl")] == ["sdxl", "demo"]
