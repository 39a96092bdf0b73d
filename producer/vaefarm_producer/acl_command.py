"""`vaefarm acl`: a file of Redis users, each with what one part of a farm does and no more."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vaefarm_shared import acl as roles
from vaefarm_shared.errors import InvalidOption

from .acl_file import HOLDERS, check_password, new_password, read_users, rewritten, user_name, write_users
from .commands import JsonOption


def acl(
    file: Annotated[
        Path | None,
        typer.Argument(help="The ACL file to write, as redis.conf's `aclfile` names it; to show the roles, none."),
    ] = None,
    update: Annotated[
        bool,
        typer.Option("--update", help="Rewrite the rules of a file that is there; its passwords and other users stay."),
    ] = False,
    password: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=PASSWORD",
            help="A password instead of one that is drawn; may be repeated. Whoever lists processes reads options:"
            " better in the variable, between blanks.",
            envvar="VAEFARM_ACL_PASSWORDS",
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(help="What the users' names begin with.")] = "vaefarm-",
    as_json: JsonOption = False,
) -> None:
    """Write a Redis ACL file: users for operators, gateways and producers, workers, reapers, and the default user.

    Passwords are drawn and printed, this once; the file keeps their SHA-256. Each user may run the commands, on the
    keys and channels, that its part of the farm uses. Before an upgrade, --update and Redis' ACL LOAD bring new rules.
    """
    if file is None:
        show_roles(as_json)
        return
    given = read_passwords(password or ())
    users = known_users(file, update)
    missing = {holder: new_password() for holder in HOLDERS if user_name(holder, prefix) not in users}
    passwords = missing | given
    write_users(file, rewritten(users, passwords, prefix))
    for holder in HOLDERS:
        if holder not in passwords:
            continue
        shown = {"role": holder, "user": user_name(holder, prefix)}
        drawn = holder not in given
        if as_json:
            print(json.dumps(shown | {"password": passwords[holder] if drawn else None}))
        else:
            print(f"{shown['user']:18} {passwords[holder] if drawn else '(the password that was given)'}")
    print(
        f"vaefarm: {file} keeps hashes alone: these passwords are not shown again. Redis reads it with `aclfile` in"
        " redis.conf, and anew at ACL LOAD",
        file=sys.stderr,
    )


def known_users(file: Path, update: bool) -> dict[str, str]:
    """The users of the file that is to be written. Raises InvalidOption where that would surprise."""
    if not file.exists():
        if update:
            raise InvalidOption(f"there is no {file} to update")
        return {}
    if not update:
        raise InvalidOption(f"{file} exists: --update rewrites its rules and keeps its passwords; or name another file")
    return read_users(file)


def read_passwords(given: Sequence[str]) -> dict[str, str]:
    """Passwords by their roles, of ROLE=PASSWORD. Raises InvalidOption, which tells no password."""
    passwords = {}
    for one in given:
        holder, equals, password = one.partition("=")
        if not equals or holder not in HOLDERS:
            raise InvalidOption(f"a password is given as ROLE=PASSWORD with one of the roles {', '.join(HOLDERS)}")
        check_password(holder, password)
        passwords[holder] = password
    return passwords


def show_roles(as_json: bool) -> None:
    """Print what each role may do."""
    if as_json:
        for one in roles.ROLES:
            print(json.dumps({"role": one.name, "for": one.says, "rules": one.rules()}))
        return
    table = Table("role", "for", "rules")
    for one in roles.ROLES:
        table.add_row(one.name, one.says, one.rules())
    Console().print(table)
