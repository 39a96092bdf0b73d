"""The file of a Redis ACL: a user for each role of a farm, and the default user, who then needs a password too.

It keeps the passwords' SHA-256, as Redis does: they are drawn from 256 random bits, so nobody finds them from it.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vaefarm_shared import acl
from vaefarm_shared.errors import InvalidOption

#: The user that administers Redis itself, and whom clients are that name none.
DEFAULT: Final[str] = "default"

#: What that one may.
EVERYTHING: Final[str] = "~* &* +@all"

#: Who passwords are given for, in the order of the file.
HOLDERS: Final[tuple[str, ...]] = (DEFAULT, *(one.name for one in acl.ROLES))

#: Characters of the shortest password: the file's hashes are unsalted, so a word would be found.
SHORTEST: Final[int] = 16


def user_name(holder: str, prefix: str) -> str:
    """The name of a role's user."""
    return holder if holder == DEFAULT else f"{prefix}{holder}"


def new_password() -> str:
    """256 random bits, in characters that a URL may hold."""
    return secrets.token_urlsafe(32)


def check_password(holder: str, password: str) -> None:
    """Raise InvalidOption for one that is too short, or that no file holds."""
    if len(password) < SHORTEST or any(character.isspace() for character in password):
        raise InvalidOption(
            f"the password of {holder} must have {SHORTEST} characters or more, and no blanks: its hash in the file is"
            " unsalted"
        )


def hashed(password: str) -> str:
    """A password as an ACL file holds it."""
    return "#" + hashlib.sha256(password.encode()).hexdigest()


def read_users(path: Path) -> dict[str, str]:
    """The lines of an ACL file by their users. Raises InvalidOption for a file that is none."""
    users = {}
    for line in filter(None, map(str.strip, path.read_text().splitlines())):
        if not line.startswith("user ") or len(line.split()) < 2:
            raise InvalidOption(
                f"{path} is no ACL file of Redis: {line[:60]!r}; expected lines that begin with 'user NAME'"
            )
        users[line.split()[1]] = line
    return users


def rewritten(users: Mapping[str, str], passwords: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The users of a file with the rules of this release: passwords that are not given anew stay, other users too."""
    found = dict(users)
    for holder in HOLDERS:
        name = user_name(holder, prefix)
        hashes = [hashed(passwords[holder])] if holder in passwords else hashes_of(users[name])
        if holder == DEFAULT:
            if holder in passwords:
                found[name] = " ".join(("user", name, "on", *hashes, EVERYTHING))
        else:
            found[name] = " ".join(("user", name, "on", *hashes, acl.role(holder).rules()))
    return found


def hashes_of(line: str) -> list[str]:
    """The hashes of a user's passwords."""
    return [word for word in line.split() if word.startswith("#")]


def write_users(path: Path, users: Mapping[str, str]) -> None:
    """Write the file, whole or not at all, for its owner and group alone."""
    text = "".join(f"{line}\n" for line in users.values())
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w") as file:
            file.write(text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
