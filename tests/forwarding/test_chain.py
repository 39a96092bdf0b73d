"""A farm that forwards to another farm's gateway: the very same pictures."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import eventually
from tests.forwarding.conftest import entry
from tests.served_gateway import ServedGateway
from tests.worker.items import decode, randn
from tests.worker.remote.bad_endpoint import BadEndpoint, Well

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.remote.remote_decoder import RemoteDecoder, RemoteVae
from vaefarm_worker.worker import Worker

VAES = ("sd-v1", "sdxl", "flux", "taesd")


@pytest.fixture
def second(settings: Settings, shared_lifelines: Callable[[Settings], Lifeline]) -> Iterator[ServedGateway]:
    """Another farm, on a database of its own, that decodes with the small VAEs; its gateway."""
    url = settings.redis_url.get_secret_value().removesuffix("/0") + "/1"
    own = settings.at(url)
    loaded = LocalDecoder([Catalogue.load(settings.catalogue)[vae] for vae in VAES], "cpu")
    worker = Worker(own, loaded, "second", shared_lifelines(own))
    thread = threading.Thread(target=worker.run)
    thread.start()
    gateway = ServedGateway(own)
    gateway.start()
    connection = connect(url)
    eventually("the second farm serves", lambda: connection.exists("vaefarm:worker:second"))
    yield gateway
    gateway.stop()
    worker.stop()
    thread.join(60)
    connection.close()


def chained(gateway: ServedGateway, settings: Settings) -> RemoteDecoder:
    catalogue = Catalogue.load(settings.catalogue)
    seconds = {"read_seconds": 60.0, "timeout_seconds": 60.0}
    return RemoteDecoder(
        [RemoteVae(catalogue[vae], (entry(f"{gateway.url}/hf/{vae}", concurrency=32, **seconds),)) for vae in VAES]
    )


@pytest.mark.parametrize(
    ("vae", "shape", "options"),
    [
        ("sd-v1", (1, 4, 8, 12), {}),
        ("sd-v1", (3, 4, 8, 8), {"image_format": "webp", "lossless": True}),
        ("sd-v1", (1, 4, 8, 8), {"normalised": False}),
        ("sd-v1", (1, 4, 8, 8), {"scaling_factor": 0.3, "shift_factor": 0.1}),
        ("sdxl", (2, 4, 16, 8), {}),
        ("flux", (1, 16, 8, 8), {}),
        ("flux", (1, 24, 64), {"height": 64, "width": 96}),
        ("taesd", (1, 4, 8, 8), {}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_reproducible_job_that_was_forwarded_is_the_local_decode_bit_for_bit(
    farm: Farm,
    settings: Settings,
    second: ServedGateway,
    serving: Callable[..., Any],
    vae: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    sent = randn(*shape).to(dtype)
    local = LocalDecoder([Catalogue.load(settings.catalogue)[vae]], "cpu")
    expected = decode(local, vae, sent, reproducible=True, **options)
    with serving(None, chained(second, settings)):
        job = farm.submit(sent, vae=vae, reproducible=True, **options)
        images = job.images(timeout=60)
    assert expected.pixels is not None
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), expected.pixels)
    report = job.record().report
    assert report is not None
    assert (report.endpoint, report.device, report.reproducible) == ("far", "remote", True)
    # The second farm tells of its own decode: of which weights, and in what dtype.
    assert (report.revision, report.dtype) == (local.vaes[vae].revision, expected.dtype)


def test_a_raw_tensor_that_was_forwarded_is_the_decoders(
    farm: Farm, settings: Settings, second: ServedGateway, serving: Callable[..., Any]
) -> None:
    sent = randn(1, 4, 8, 8)
    local = LocalDecoder([Catalogue.load(settings.catalogue)["sdxl"]], "cpu")
    expected = decode(local, "sdxl", sent, output_type="pt").tensor
    with serving(None, chained(second, settings)):
        tensor = farm.submit(sent, vae="sdxl", output_type="pt").tensor(timeout=60)
    assert expected is not None
    assert np.array_equal(tensor.numpy(), expected.array)


def test_an_endpoint_that_knows_nothing_of_reproducible_jobs_is_not_believed(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], settings: Settings
) -> None:
    endpoint.reproduces = False
    catalogue = Catalogue.load(settings.catalogue)
    with serving(None, RemoteDecoder([RemoteVae(catalogue["demo"], (entry(endpoint.url),))])):
        job = farm.submit(randn(1, 4, 8, 8), vae="demo", reproducible=True)
        assert job.wait(timeout=30) == "failed"
        assert "reproducible" in str(job.record().reason)
        # The endpoint is as well as before.
        assert farm.submit(randn(1, 4, 8, 8), vae="demo").wait(timeout=30) == "finished"


def test_thirty_two_are_in_flight_at_a_time(
    farm: Farm, endpoint: BadEndpoint, serving: Callable[..., Any], settings: Settings
) -> None:
    endpoint.behave(then=Well(seconds=0.5))
    catalogue = Catalogue.load(settings.catalogue)
    far = entry(endpoint.url, concurrency=32, read_seconds=30.0, timeout_seconds=30.0)
    with serving(None, RemoteDecoder([RemoteVae(catalogue["demo"], (far,))])):
        jobs = farm.submit_many([randn(1, 4, 8, 8, seed=seed) for seed in range(96)], vae="demo")
        assert {job.wait(timeout=60) for job in jobs} == {"finished"}
    assert endpoint.most_in_flight == 32
