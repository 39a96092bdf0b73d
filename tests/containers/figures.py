"""`python -m tests.containers.figures`: sizes of images, seconds until each service is well, its memory at rest."""

import os
import time
from functools import partial

from tests.conftest import eventually
from tests.containers.conftest import BASES, VERSION, compose_of
from tests.containers.engine import Engine

#: Seconds without work after which memory is read.
REST_SECONDS = 20.0
UP_SECONDS = 120.0


def main() -> None:
    """Build, bring up, measure, take down."""
    engine = Engine.find()
    assert engine is not None, "no container engine"
    engine.set_up()
    print(f"{engine.name}, {os.cpu_count()} processors")
    bases = {name: engine.inspect(image)["Size"] for name, image in BASES.items()}
    for target in ("gateway", "worker", "all-in-one"):
        tag = f"vaefarm/{target}:{VERSION}"
        engine.build(target, tag, {"TORCH_INDEX_URL": os.environ.get("TORCH_INDEX_URL", "")})
        size = engine.inspect(tag)["Size"]
        print(f"image {target}: {size / 1e6:.0f} MB, {(size - bases['python']) / 1e6:.0f} MB above its base")

    compose = compose_of(engine)
    compose("down", "--volumes")
    try:
        began = time.monotonic()
        compose("up", "-d", "--no-build")
        print(f"`compose up -d` returned after {time.monotonic() - began:.1f} s")
        for service in ("redis", "gateway", "worker"):
            container = compose.container(service)
            eventually(f"{service} is well", partial(engine.is_well, container), UP_SECONDS)
            print(f"{service} well after {time.monotonic() - began:.1f} s")
        time.sleep(REST_SECONDS)
        for service in ("redis", "gateway", "worker", "reaper"):
            used = engine.run("stats", "--no-stream", "--format", "{{.MemUsage}}", compose.container(service))
            print(f"{service} at rest: {used.strip()}")
    finally:
        compose("down", "--volumes")


if __name__ == "__main__":
    main()
