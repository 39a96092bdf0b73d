"""The `bench` command."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import ConfigurationError, FarmError
from vaefarm_shared.settings import Settings

from ..commands import read_bytes
from .interruption import Interruption
from .plan import read_plan

if TYPE_CHECKING:
    from .results import Results
    from .session import Session

#: What is written into the folder of --out.
JSON_NAME: Final[str] = "bench.json"
CHART_NAME: Final[str] = "bench.png"


def bench(
    vaes: Annotated[
        str | None,
        typer.Option(help="VAE ids, separated by commas. Otherwise those on this machine; on a CPU the demo's."),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Sides of the square pictures in pixels. Otherwise 512,1024,2048; on a CPU less."),
    ] = None,
    batches: Annotated[str | None, typer.Option(help="Pictures in one call. Otherwise 1,4; on a CPU 1.")] = None,
    modes: Annotated[
        str | None, typer.Option(help="Ways of decoding, separated by commas. Otherwise all; a wrong one names them.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda:N, cpu, mps, xpu, or auto.", envvar="VAEFARM_DEVICE")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16. Otherwise what a worker decodes the VAE in.")
    ] = None,
    runs: Annotated[int, typer.Option(help="Calls of each case, of which the median counts.")] = 3,
    random: Annotated[
        bool,
        typer.Option("--random", help="Random weights where a VAE's are not on this machine: as fast, and offline."),
    ] = False,
    vram_limit: Annotated[
        str | None, typer.Option(help="Measure as if the device had so much memory, such as 8GiB.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help=f"Folder for {JSON_NAME} and {CHART_NAME}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object in place of the table.")] = False,
    catalogue: Annotated[
        Path | None, typer.Option(help="TOML file with more VAEs. Otherwise VAEFARM_CATALOGUE.")
    ] = None,
) -> None:
    """Measure decodes on this machine: time and memory by VAE, size, batch and way of decoding, and the chip's limit.

    What does not fit is a row that says so. Ctrl-C or SIGTERM ends it with what was measured until then; a second one
    ends it at once.
    """
    settings = Settings.from_env(catalogue=None if catalogue is None else str(catalogue))
    limit_bytes = None if vram_limit is None else read_bytes(vram_limit, "--vram-limit")
    plan = read_plan(vaes, sizes, batches, modes, runs, dtype, random, limit_bytes)
    try:
        # Here and not above: torch takes seconds to import, and a client's install has none.
        from .session import Session
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"bench needs {error.name}: pip install 'vaefarm[worker]'") from error
    if out is not None:
        make_folder(out)
    session = Session.of(Catalogue.load(settings.catalogue), plan, device)
    results = session.begin()
    interruption = Interruption()
    try:
        with interruption:
            measure_all(session, results, interruption)
    except KeyboardInterrupt:
        pass
    except FarmError:
        if results.rows:
            report(results, out, as_json)
        raise
    if not results.is_complete:
        measured = f"{len(results.rows)} of {session.cases} cases were measured"
        print(f"vaefarm: {interruption.how}; {measured}", file=sys.stderr, flush=True)
    report(results, out, as_json)
    if not results.is_complete:
        raise typer.Exit(interruption.exit_code)


def measure_all(session: "Session", results: "Results", interruption: Interruption) -> None:
    """Run the session beside a bar that says what is measured. Raises KeyboardInterrupt where it is to end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=session.cases)

        def begin(case: str) -> None:
            interruption.check()
            progress.update(task, description=case)

        session.run(results, begin, lambda rows: progress.advance(task, rows))


def make_folder(out: Path) -> None:
    """Make the folder before anything is measured. Raises ConfigurationError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be made: {error.strerror}; expected a folder") from error


def report(results: "Results", out: Path | None, as_json: bool) -> None:
    """Print what was measured, and write it into the folder. Raises ConfigurationError where that cannot be done."""
    from .chart import save_chart
    from .table import show

    text = json.dumps(results.as_json(), indent=None if as_json else 1)
    if as_json:
        print(text, flush=True)
    elif results.rows:
        show(results, Console())
    if out is None or not results.rows:
        return
    with written(out / JSON_NAME) as path:
        path.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    with written(out / CHART_NAME) as path:
        save_chart(results, path)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Say where a file was written. Raises ConfigurationError where it cannot be."""
    try:
        yield path
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from error
    print(f"vaefarm: {path}", file=sys.stderr)
