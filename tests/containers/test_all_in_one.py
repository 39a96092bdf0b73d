"""The all-in-one image as a hosted inference endpoint runs it: a mounted model, a port, a stock client."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from diffusers.utils.remote_utils import remote_decode
from tests.conftest import eventually
from tests.containers.conftest import Image, free_port
from tests.containers.engine import ROOT, Engine

from vaefarm_shared.latents import Latents

#: Seconds until it is ready.
READY_SECONDS = 120.0

NAME = "vaefarm-all-in-one"


@pytest.fixture
def url(engine: Engine, image: Image) -> Iterator[str]:
    """An endpoint whose model lies in /repository, listening on a port of its own choice."""
    repository, port = ROOT / "worker" / "vaefarm_worker" / "demo" / "vae", free_port()
    engine.outcome("rm", "--force", NAME)
    engine.run(
        *("run", "--detach", "--name", NAME, "--publish", f"127.0.0.1:{port}:8123"),
        *("--env", "VAEFARM_LISTEN_PORT=8123", "--env", "VAEFARM_EXPOSED_ON=guarded"),
        *("--env", "VAEFARM_WEIGHTS=/repository", "--volume", f"{repository}:/repository:ro"),
        image("all-in-one"),
    )
    yield f"http://127.0.0.1:{port}"
    engine.outcome("rm", "--force", "--time", "20", NAME)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_stock_client_decodes_with_the_mounted_model_and_stop_ends_it_with_0(
    url: str, engine: Engine, demo_latents: dict[str, Latents], pictures: dict[str, npt.NDArray[np.uint8]]
) -> None:
    eventually("it lives", lambda: status(f"{url}/health") == 200, READY_SECONDS)
    eventually("it is ready", lambda: status(f"{url}/ready") == 200, READY_SECONDS)

    for name, held in list(demo_latents.items())[:3]:
        image = remote_decode(url, held.torch(), do_scaling=True, image_format="png")
        difference = np.abs(np.asarray(image).astype(int) - pictures[name].astype(int))
        assert difference.max() <= 2

    eventually("its own check passes", lambda: engine.is_well(NAME), READY_SECONDS)
    engine.run("stop", "--time", "60", NAME)
    assert engine.inspect(NAME)["State"]["ExitCode"] == 0
