"""The compose file as operators use it: brought up, scaled, hurt, stopped, taken down and brought up again."""

import json
import urllib.request
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice

import numpy as np
import numpy.typing as npt
import pytest
from tests.conftest import eventually
from tests.containers.conftest import LATENTS, Image
from tests.containers.engine import Compose, Engine

from vaefarm_producer import Farm, Job
from vaefarm_shared.latents import Latents

#: Seconds within which a container that died serves again, or a farm is up.
UP_SECONDS = 90.0

#: Jobs of a load: some seconds of work.
LOAD = 240

Pictures = dict[str, npt.NDArray[np.uint8]]


@pytest.fixture(scope="module")
def running(compose: Compose) -> Compose:
    """The farm as `docker compose up -d` leaves it, ready."""
    compose("up", "-d", "--no-build")
    await_ready(compose)
    return compose


@pytest.fixture
def farm(running: Compose) -> Iterator[Farm]:
    """A client on the host, over the gateway."""
    with Farm(url_of(running)) as one:
        yield one


def url_of(compose: Compose) -> str:
    return f"http://127.0.0.1:{compose.environment['VAEFARM_PORT']}"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def await_ready(compose: Compose) -> None:
    eventually("the farm is ready", lambda: answers(f"{url_of(compose)}/ready"), UP_SECONDS)


def workers(compose: Compose) -> list[str]:
    """The workers that the gateway knows; none while it is away."""
    try:
        with urllib.request.urlopen(f"{url_of(compose)}/v1/workers", timeout=5) as answer:
            return [one["name"] for one in json.load(answer)["workers"]]
    except OSError:
        return []


def submit_load(farm: Farm, demo: dict[str, Latents], prefix: str) -> list[tuple[str, Job]]:
    """Many jobs, each with the name of its picture."""
    named = list(islice(cycle(demo.items()), LOAD))
    jobs = farm.submit_many(
        [held.torch() for _, held in named], vae="demo", job_ids=[f"{prefix}-{n}" for n in range(len(named))]
    )
    return [(name, job) for (name, _), job in zip(named, jobs, strict=True)]


def check_all(load: list[tuple[str, Job]], pictures: Pictures) -> None:
    """Every job has ended with its own picture."""
    for name, job in load:
        assert is_picture(np.asarray(job.image(timeout=180)), pictures[name]), (name, job.id, job.record())


def is_picture(found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> bool:
    """The same but for what batches and thread counts change."""
    return found.shape == expected.shape and int(np.abs(found.astype(int) - expected.astype(int)).max()) <= 2


def test_jobs_over_http_and_from_a_producers_container_give_the_right_pictures(
    running: Compose, engine: Engine, image: Image, farm: Farm, demo_latents: dict[str, Latents],
    pictures: Pictures,
) -> None:  # fmt: skip
    for name, held in demo_latents.items():
        found = farm.submit(held.torch(), vae="demo").image(timeout=60)
        assert is_picture(np.asarray(found), pictures[name])

    program = (
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from vaefarm_producer import Farm\n"
        "from vaefarm_shared import latents\n"
        "paths = sorted(Path('/latents').glob('*.safetensors'))\n"
        "with Farm.from_env() as farm:\n"
        "    jobs = [farm.submit(latents.read_file(path, 1 << 20)[0], vae='demo') for path in paths]\n"
        "    print([round(float(np.asarray(job.image(timeout=60)).mean()), 3) for job in jobs])\n"
    )
    said = engine.run(
        *("run", "--rm", "--network", f"{running.project}_farm", "--volume", f"{running.project}_results:/data"),
        *("--env", "VAEFARM_REDIS_URL=redis://redis:6379/0", "--env", "VAEFARM_STORE=file:///data"),
        *("--volume", f"{LATENTS}:/latents:ro", "--entrypoint", "/opt/vaefarm/bin/python"),
        *(image("gateway"), "-c", program),
    )
    means = json.loads(said.splitlines()[-1])
    assert means == pytest.approx([float(pictures[name].mean()) for name in sorted(pictures)], abs=0.5)


def test_three_workers_serve_where_three_are_asked_for(running: Compose) -> None:
    # Where podman stands in, a later `stop` or `down` knows of those alone that the file has.
    running.environment["CPU_WORKERS"] = "3"
    running("up", "-d", "--no-build", "--scale", "worker=3")
    eventually("three workers serve", lambda: len(workers(running)) == 3, UP_SECONDS)


@pytest.mark.parametrize("service", ["worker", "redis", "gateway"])
def test_nothing_is_lost_when_a_container_dies_in_mid_load(
    running: Compose, engine: Engine, farm: Farm, demo_latents: dict[str, Latents], pictures: Pictures, service: str
) -> None:
    load = submit_load(farm, demo_latents, f"killed-{service}")
    eventually("the load is under way", lambda: load[LOAD // 8][1].status() == "finished", UP_SECONDS)

    engine.kill(running.container(service))
    eventually("it is up again", lambda: engine.is_running(running.container(service)), UP_SECONDS)

    await_ready(running)
    check_all(load, pictures)
    assert max(job.record().attempts for _, job in load) <= 2


def test_a_worker_that_is_stopped_finishes_what_it_has_and_hands_back_the_rest(
    running: Compose, engine: Engine, farm: Farm, demo_latents: dict[str, Latents], pictures: Pictures
) -> None:
    load = submit_load(farm, demo_latents, "stopped")
    eventually("the load is under way", lambda: load[LOAD // 8][1].status() == "finished", UP_SECONDS)
    running("stop", "worker")

    states = [engine.inspect(running.container("worker", n))["State"] for n in (1, 2, 3)]
    assert [state["ExitCode"] for state in states] == [0, 0, 0]
    assert {str(job.status()) for _, job in load} == {"queued", "finished"}
    assert {job.record().attempts for _, job in load if job.status() == "queued"} == {0}

    running("up", "-d", "--no-build")
    check_all(load, pictures)
    assert {job.record().attempts for _, job in load} == {1}


def test_what_is_queued_and_what_is_finished_outlive_down_and_up(
    running: Compose, farm: Farm, demo_latents: dict[str, Latents], pictures: Pictures
) -> None:
    name, held = next(iter(demo_latents.items()))
    done = farm.submit(held.torch(), vae="demo", job_id="done-before")
    done.wait(60)
    running("stop", "worker")
    waiting = farm.submit(held.torch(), vae="demo", job_id="waits-before", reproducible=True)

    running("down")
    running("up", "-d", "--no-build")
    await_ready(running)

    assert is_picture(np.asarray(farm.job("done-before").image(timeout=60)), pictures[name])
    assert is_picture(np.asarray(farm.job(waiting.id).image(timeout=60)), pictures[name])


def test_every_service_says_that_it_is_well(running: Compose, engine: Engine) -> None:
    for service in ("redis", "gateway", "worker", "reaper"):
        container = running.container(service)
        eventually(f"{service} is well", partial(engine.is_well, container), UP_SECONDS)
