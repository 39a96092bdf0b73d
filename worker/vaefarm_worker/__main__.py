"""`python -m vaefarm_worker`: the worker's command alone, where no producer is installed."""

import sys

import typer

from vaefarm_shared.cli_errors import run

from .commands import worker

if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(worker)
    sys.exit(run(app))
