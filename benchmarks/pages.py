"""What open pages cost a gateway while jobs pass: its processor time and its connections to Redis."""

import time
from contextlib import ExitStack
from typing import Any, Final

from vaefarm_producer.local.processes import worker_command
from vaefarm_shared.connection import connect

from . import cpu, workload
from .depth import BUDGET_BYTES
from .farm_under_test import VAE, FarmUnderTest, Options, farm_with
from .gateway import clean_environment, crowd, result_of, serving
from .report import Figure, middle

#: Pages that are open at a time.
PAGES: Final = (0, 1, 100)

#: Jobs each second, and seconds for which they pass.
RATE: Final = 50
SECONDS: Final = 20.0

#: Seconds for which their pictures are kept: an hour's would fill Redis.
RESULT_SECONDS: Final = 60


def pages(options: Options) -> Figure:
    """Rounds of RATE jobs each second, with none, one and many pages open."""
    passes: dict[int, list[dict[str, Any]]] = {count: [] for count in PAGES}
    command = [*worker_command(VAE, "cpu"), "--decoder", "fake"]
    with farm_with(options, command, budget_bytes=BUDGET_BYTES) as running, ExitStack() as stack:
        log = stack.enter_context((running.server.folder / "gateway.log").open("wb"))
        environment = clean_environment(running.server.url, options)
        url, gateway = stack.enter_context(serving(environment, log))
        one_pass(running, url, gateway.pid, 1, environment, SECONDS / 4)
        for turn in range(options.rounds):
            for count in PAGES if turn % 2 else reversed(PAGES):
                passes[count].append(one_pass(running, url, gateway.pid, count, environment, SECONDS))
    shares = {count: [one["cpu"] / one["seconds"] for one in found] for count, found in passes.items()}
    more = {count: [one - none for one, none in zip(shares[count], shares[0], strict=True)] for count in PAGES}
    return Figure(
        title=f"pages that are open while {RATE} jobs pass each second, {SECONDS:.0f} seconds each, thumbnails fetched",
        header=("pages", "gateway CPU, share of a core", "of that for pages", "connections to Redis", "KiB/s to each"),
        rows=tuple(
            (
                str(count),
                middle(shares[count], ".3f"),
                middle(more[count], ".3f"),
                middle([one["connections"] for one in passes[count]], ".0f"),
                middle([one["kibibytes"] for one in passes[count]], ".1f") if count else "-",
            )
            for count in PAGES
        ),
        raw={str(count): found for count, found in passes.items()},
        note=(
            "A page is its stream of events and the thumbnails that it names, fetched once each; what it shows at first"
            " is fetched before. Connections are all that Redis has, the worker's and this process' too. Pictures of"
            " 256 x 256 by the fake decoder, encoded as PNG."
        ),
    )


def one_pass(
    running: FarmUnderTest, url: str, gateway: int, count: int, environment: dict[str, str], seconds: float
) -> dict[str, Any]:
    """Jobs pass while pages are open."""
    (held,) = workload.noise(1, (1, 4, 32, 32))
    with ExitStack() as stack:
        looking = stack.enter_context(crowd("look", url, {"pages": count}, environment))
        spent, began = cpu.family_seconds(gateway), time.perf_counter()
        for number in range(int(RATE * seconds)):
            time.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            running.farm.submit(held, vae=VAE, result_seconds=RESULT_SECONDS)
        lasted = time.perf_counter() - began
        spent = cpu.family_seconds(gateway) - spent
        connection = connect(running.server.url)
        connections = len(connection.client_list()) - 1
        connection.close()
        read = result_of(looking)
    return {
        "cpu": spent,
        "seconds": lasted,
        "connections": connections,
        "kibibytes": read["bytes"] / 1024 / lasted / max(count, 1),
        "thumbnails": read["thumbnails"],
        "failed": read["failed"],
    }
