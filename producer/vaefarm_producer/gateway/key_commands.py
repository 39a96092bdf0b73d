"""`vaefarm keys`: make, list and remove the keys of a gateway."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vaefarm_shared.errors import InvalidOption

from ..commands import JsonOption
from .extra import gateway_extra
from .settings import GatewaySettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Make, list and remove the API keys of gateways. A running gateway knows of it within a second or two.",
)

NameArgument = Annotated[str, typer.Argument(help="Who holds the key; the owner of the jobs that it makes.")]
FileOption = Annotated[
    Path | None, typer.Option("--file", help="The TOML file of the keys. Otherwise VAEFARM_KEYS.", dir_okay=False)
]


@app.command()
def add(
    name: NameArgument,
    admin: Annotated[bool, typer.Option("--admin", help="It sees every job, and may operate the farm.")] = False,
    rate: Annotated[str | None, typer.Option(help="Requests that it may make, such as 10/second; no limit.")] = None,
    max_in_flight: Annotated[int | None, typer.Option(help="Jobs that it may have unended; no limit.", min=1)] = None,
    replace: Annotated[bool, typer.Option("--replace", help="A new key for a name that has one.")] = False,
    file: FileOption = None,
) -> None:
    """Make a key and print it, this once: the file keeps no more than its hash."""
    with gateway_extra():
        from .key_file import add_key, new_entry, new_key
    path, key = path_of(file), new_key()
    entry = new_entry(name, key, admin=admin, rate=rate, max_in_flight=max_in_flight)
    add_key(path, entry, replace=replace)
    print(key)
    print(f"vaefarm: {path} keeps the hash of this key alone: it is not shown again", file=sys.stderr)


@app.command("list")
def list_keys(file: FileOption = None, as_json: JsonOption = False) -> None:
    """Show whose keys there are, and what they may."""
    with gateway_extra():
        from .key_file import read_keys
    entries = read_keys(path_of(file))
    if as_json:
        for entry in entries:
            print(json.dumps(entry.model_dump(mode="json", exclude={"hash"})))
        return
    table = Table("name", "admin", "rate", "in flight", "since")
    for entry in entries:
        most = "" if entry.max_in_flight is None else str(entry.max_in_flight)
        since = "" if entry.created is None else f"{entry.created:%Y-%m-%d %H:%M}"
        table.add_row(entry.name, "yes" if entry.admin else "", entry.rate or "", most, since)
    Console().print(table)


@app.command()
def remove(name: NameArgument, file: FileOption = None) -> None:
    """Take a key away: its requests that run are ended. Its jobs stay, for admins and a new key of that name."""
    with gateway_extra():
        from .key_file import remove_key
    remove_key(path_of(file), name)
    print(name)


def path_of(file: Path | None) -> Path:
    """The file that is meant. Raises InvalidOption where nothing says which."""
    path = file or GatewaySettings.from_env().keys
    if path is None:
        raise InvalidOption("which file? Give --file FILE, or set VAEFARM_KEYS to the file that the gateway reads")
    return path
