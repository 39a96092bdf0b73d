"""`vaefarm`: one command, its subcommands imported only when they are called or listed."""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from vaefarm_shared.cli_errors import run

#: Subcommands in the order in which --help shows them, and where each is. The worker's is named, not imported: a
#: client's install has no torch, and its modules import none until they run.
COMMANDS: Final[dict[str, str]] = {
    "demo": "vaefarm_producer.local.demo:demo",
    "up": "vaefarm_producer.local.up:up",
    "worker": "vaefarm_worker.commands:worker",
    "gateway": "vaefarm_producer.gateway.commands:gateway",
    "keys": "vaefarm_producer.gateway.key_commands:app",
    "vaes": "vaefarm_worker.vaes_command:vaes",
    "bench": "vaefarm_worker.bench.command:bench",
    "submit": "vaefarm_producer.commands:submit",
    "encode": "vaefarm_producer.encode_command:encode",
    "fetch": "vaefarm_producer.commands:fetch",
    "status": "vaefarm_producer.operating_commands:status",
    "top": "vaefarm_producer.top.command:top",
    "cancel": "vaefarm_producer.commands:cancel",
    "failed": "vaefarm_producer.operating_commands:failed",
    "pause": "vaefarm_producer.operating_commands:pause",
    "resume": "vaefarm_producer.operating_commands:resume",
    "devices": "vaefarm_producer.operating_commands:devices",
    "endpoints": "vaefarm_producer.endpoints_command:endpoints",
    "reap": "vaefarm_producer.reap_command:reap",
    "doctor": "vaefarm_producer.doctor:doctor",
    "acl": "vaefarm_producer.acl_command:acl",
    "health": "vaefarm_producer.health_command:health",
}


class LazyGroup(TyperGroup):
    """A group that imports a subcommand's module when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The subcommand of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            group = typer.main.get_group(found)
            # --help lists commands by it.
            group.name = cmd_name
            return group
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(found)
        return typer.main.get_command(single)


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"vaefarm {version('vaefarm')}")
        raise typer.Exit


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and end."),
    ] = False,
) -> None:
    """Diffusion VAE decodes off your generation GPUs: latents on a Redis queue in, pictures out."""


def main() -> None:
    """The console script."""
    sys.exit(run(app))
