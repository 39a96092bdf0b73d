"""The images, and the compose file brought up. `make containers` runs these tests, and nothing else does."""

import os
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.containers.engine import Compose, Engine
from tests.worker.items import decode

from vaefarm_shared import latents
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.checks import MAX_LATENT_BYTES
from vaefarm_shared.latents import Latents
from vaefarm_worker.local_decoder import LocalDecoder

WANTED = os.environ.get("TEST_CONTAINERS") == "1"
if not WANTED:
    collect_ignore_glob = ["test_*.py"]

#: The tag of a target.
Image = Callable[[str], str]

VERSION = "test"

#: The images that ours, and Redis', are made from.
BASES = {
    "python": "docker.io/library/python:3.11-slim-bookworm",
    "redis": "docker.io/library/redis:7-bookworm",
}
LATENTS = Path(__file__).parents[2] / "worker" / "vaefarm_worker" / "demo" / "latents"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compose_of(engine: Engine) -> Compose:
    """A project of the compose file, beside whatever else this machine runs."""
    environment = {"VAEFARM_VERSION": VERSION, "VAEFARM_PORT": str(free_port())}
    return Compose(engine, "vaefarm-test", environment)


@pytest.fixture(scope="session")
def engine() -> Engine:
    found = Engine.find()
    assert found is not None, "no container engine: install Docker, or name a folder of commands with CONTAINERS"
    found.set_up()
    return found


@pytest.fixture(scope="session")
def image(engine: Engine) -> Image:
    """The image of a target of the Dockerfile, built when it is first asked for."""

    @cache
    def of(target: str) -> str:
        tag = f"vaefarm/{target}:{VERSION}"
        index = {} if target == "gateway" else {"TORCH_INDEX_URL": os.environ.get("TORCH_INDEX_URL", "")}
        engine.build(target, tag, index)
        return tag

    return of


@pytest.fixture(scope="module")
def compose(engine: Engine, image: Image) -> Iterator[Compose]:
    """The farm of compose.yaml, without a container yet and without a volume."""
    image("gateway"), image("worker")
    one = compose_of(engine)
    one("down", "--volumes")
    yield one
    one("down", "--volumes")


@pytest.fixture(scope="session")
def demo_latents() -> dict[str, Latents]:
    """What `vaefarm demo` decodes, by name."""
    return {path.stem: latents.read_file(path, MAX_LATENT_BYTES)[0] for path in sorted(LATENTS.glob("*.safetensors"))}


@pytest.fixture(scope="session")
def pictures(demo_latents: dict[str, Latents]) -> dict[str, npt.NDArray[np.uint8]]:
    """The same, decoded here."""
    decoder = LocalDecoder([Catalogue.load()["demo"]], "cpu")
    found = {}
    for name, held in demo_latents.items():
        made = decode(decoder, "demo", held.torch())
        assert made.pixels is not None
        found[name] = made.pixels[0]
    return found
