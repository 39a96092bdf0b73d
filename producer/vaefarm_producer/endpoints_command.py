"""The remote endpoints that workers ask: the command `endpoints`, and what `status` says of those that fail."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vaefarm_shared.workers import WorkerEndpoint, worker_endpoints

from .commands import FarmOption, JsonOption, open_farm


def endpoints(url: FarmOption = None, as_json: JsonOption = False) -> None:
    """Show the remote endpoints that workers ask: circuit, load, latency and errors, as each worker sees them.

    A worker publishes what it sees every five seconds; figures are of its last hundred requests.
    """
    with open_farm(url) as farm:
        found = farm.endpoints()
    if as_json:
        for one in found:
            print(json.dumps(one.model_dump()))
    elif found:
        console = Console()
        console.print(endpoints_table(found))
        for one in found:
            if one.last_error:
                console.print(plain(f"{one.name} of {one.vae}, last error at {one.worker}: {one.last_error}"))
    else:
        print("no worker asks an endpoint; vaefarm worker --remote VAE=URL adds one")


def endpoints_table(found: Sequence[WorkerEndpoint]) -> Table:
    """Endpoints as a table, a line for each worker that asks one."""
    table = Table(padding=(0, 0))
    # Names that differ at their ends alone stay apart in a narrow terminal: they are folded, not cut.
    for name in ("VAE", "endpoint", "worker"):
        table.add_column(name, overflow="fold")
    for name in ("state", "out", "p50, p95", "errors", "ok/failed"):
        table.add_column(name, no_wrap=True)
    for one in found:
        table.add_row(
            plain(one.vae),
            plain(one.name),
            plain(one.worker),
            standing(one),
            f"{one.in_flight}/{one.concurrency}",
            ", ".join(filter(None, map(seconds, (one.latency_p50_seconds, one.latency_p95_seconds)))),
            f"{one.error_rate:.0%}",
            f"{one.succeeded}/{one.failed}",
        )
    return table


def troubles(workers: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """A line for each worker whose device failed, and for each endpoint that is not asked as usual."""
    for worker in workers:
        if fault := worker.get("device_fault"):
            yield plain(
                f"worker {worker.get('name')}: its device failed, endpoints alone decode: {fault}"
                " (restart the worker once the device is well)"
            )
    for one in worker_endpoints(workers):
        if one.state != "closed":
            why = f": {one.last_error}" if one.last_error else ""
            yield plain(
                f"endpoint {one.name} of {one.vae}, asked by {one.worker}: {standing(one)}{why} (vaefarm endpoints)"
            )


def standing(one: WorkerEndpoint) -> str:
    """An endpoint's circuit, and for how long it is left alone since it said so."""
    rest = one.resting_until - time.time()
    return one.state + (f", rests {rest:.0f} s" if rest > 0 else "")


def seconds(value: float | None) -> str:
    """Seconds with three digits; nothing for None."""
    return "" if value is None else f"{value:.3g} s"


def plain(text: str) -> Text:
    """A text from elsewhere, without markup; what would command the terminal is written out, as \\x1b."""
    return Text("".join(one if one.isprintable() else ascii(one)[1:-1] for one in text))
