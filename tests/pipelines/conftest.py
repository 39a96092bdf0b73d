"""Real pipelines of diffusers with small random components, and a real worker that has their VAE."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.parity.case import Case

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.worker import Worker

#: Seconds that a job may take.
PATIENCE = 60

#: A worker for a case's VAE, and the farm that reaches it.
FarmOf = Callable[[Case], Farm]

#: The cases that are run each time: each layout of latents, and what pipelines do with their VAE besides.
QUICK = {"stable-diffusion", "stable-diffusion-xl", "playground", "stable-diffusion-3", "flux", "flux2", "qwen-image"}
QUICK |= {"sana-binned", "sd-img2img", "xl-inpaint", "flux-img2img"}


def sampled(names: Iterable[str]) -> list[Any]:
    """Parameters of those names, of which all but the quick ones are slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@contextmanager
def at_work(worker: Worker) -> Iterator[None]:
    """Let a worker serve beside what is done meanwhile: a pipeline waits for what it decodes."""
    thread = threading.Thread(target=worker.run, name="worker")
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def farm_of(
    farm_settings: Settings, settings: Settings, shared_lifelines: Callable[[Settings], Lifeline], tmp_path: Path
) -> Iterator[FarmOf]:
    """Farms over Redis, and over a gateway, each with a worker that has a case's VAE."""
    with ExitStack() as stack:

        def start(case: Case) -> Farm:
            case.vae.save_pretrained(tmp_path / "vae")
            fields = {"path": str(tmp_path / "vae"), **case.entry}
            lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
            catalogue = tmp_path / "catalogue.toml"
            catalogue.write_text("\n".join([f"[vaes.{case.vae_id}]", *lines]))
            decoder = LocalDecoder([Catalogue.load(catalogue)[case.vae_id]], "cpu")
            stack.enter_context(at_work(Worker(settings, decoder, "beside", shared_lifelines(settings))))
            return stack.enter_context(Farm(settings=farm_settings))

        yield start


@pytest.fixture(params=["redis"])
def farm_settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Over Redis, or where a test says "http" over a gateway."""
    found: Settings = settings if request.param == "redis" else request.getfixturevalue("http_settings")
    return found
