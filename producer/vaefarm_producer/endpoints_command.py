"""The remote endpoints that workers ask: the command `endpoints`."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vaefarm_shared.overview_warnings import standing
from vaefarm_shared.workers import WorkerEndpoint

from .commands import FarmOption, JsonOption, open_farm
from .plain_text import plain


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


def seconds(value: float | None) -> str:
    """Seconds with three digits; nothing for None."""
    return "" if value is None else f"{value:.3g} s"
