"""What is in the images, and what is not."""

import re

import pytest
from tests.containers.conftest import BASES, Image
from tests.containers.engine import ROOT, Engine

TARGETS = ("gateway", "worker", "all-in-one")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_made_for_running_and_for_nothing_else(engine: Engine, image: Image, target: str) -> None:
    config = engine.inspect(image(target))["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert config["Entrypoint"][0].endswith("dumb-init")
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert engine.health_check(image(target))[:3] == ["CMD", "vaefarm", "health"]

    looks = "id -u; command -v gcc cc make pip pip3 git; python3 -c 'import pip'; touch /opt/vaefarm/x; true"
    said = engine.outcome("run", "--rm", "--entrypoint", "sh", image(target), "-c", looks)
    assert said.stdout.split() == ["10001"], said.stdout
    assert "No module named 'pip'" in said.stderr
    assert "Permission denied" in said.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_every_package_of_an_image_is_pinned(engine: Engine, image: Image, target: str) -> None:
    listing = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    said = engine.run("run", "--rm", "--entrypoint", "/opt/vaefarm/bin/python", image(target), "-Ic", listing)
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    pinned = {normal(name): version for name, version in pins.items()}
    found = {normal(name): version.partition("+")[0] for name, version in (one.split("==") for one in said.split())}
    del found["vaefarm"]
    # What a CUDA build of torch brings is pinned by torch itself.
    found = {name: version for name, version in found.items() if not name.startswith(("nvidia-", "triton", "cuda-"))}
    assert found == {name: pinned.get(name) for name in found}
    assert ("torch" in found) == (target != "gateway")


def test_a_gateway_takes_less_than_300_mb_above_its_base(engine: Engine, image: Image) -> None:
    sizes = [engine.inspect(name)["Size"] for name in (image("gateway"), BASES["python"])]
    print(f"gateway: {(sizes[0] - sizes[1]) / 1e6:.0f} MB above its base")
    assert sizes[0] - sizes[1] < 300e6


@pytest.mark.parametrize(
    ("target", "arguments", "says"),
    [
        ("worker", ["worker", "--vaes", "nope"], "VAE 'nope' is not known"),
        ("gateway", ["gateway"], "needs keys"),
        ("gateway", ["gateway", "--redis", "http://redis"], "is no Redis URL"),
        ("all-in-one", ["up", "--weights", "/nowhere"], "is no folder"),
    ],
)
def test_a_bad_configuration_is_one_line_and_exit_2(
    engine: Engine, image: Image, target: str, arguments: list[str], says: str
) -> None:
    done = engine.outcome("run", "--rm", "--env", "VAEFARM_LOG_FORMAT=text", image(target), *arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("vaefarm:")]
    assert done.returncode == 2, done.stderr
    assert says in errors[0]
    assert "Traceback" not in done.stderr


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
