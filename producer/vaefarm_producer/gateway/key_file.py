"""The file of API keys: TOML, one `[[key]]` for each, with the key's hash and never the key."""

import fcntl
import hashlib
import os
import re
import secrets
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import tomlkit
from limits import parse_many
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vaefarm_shared.errors import ConfigurationError, InvalidOption

from .access import ADMIN_OWNER, Principal

#: What every key begins with, so that a scan for leaked secrets finds it.
KEY_PREFIX: Final[str] = "vf_"

#: Random bytes of a key. With so many, a plain hash cannot be turned back; no slow one is needed.
KEY_BYTES: Final[int] = 32

#: What a name may be; it is the owner of the jobs that the key makes.
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def checked_rate(text: str) -> str:
    """A rate that `limits` reads, such as '10/second' or '1/second; 1000/hour'. Raises ValueError."""
    if any(limit.amount < 1 for limit in parse_many(text)):
        raise ValueError("a rate of 0 admits nothing; remove the key instead")
    return text


def checked_name(name: str) -> str:
    """A key's name. Raises ValueError."""
    if not NAME.fullmatch(name) or name == ADMIN_OWNER:
        raise ValueError(f"expected 1 to 64 letters, digits, '_' or '-', and not {ADMIN_OWNER!r}")
    return name


class KeyEntry(BaseModel):
    """One key, as the file has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(checked_name)]
    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    admin: bool = False
    rate: Annotated[str, AfterValidator(checked_rate)] | None = None
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    created: datetime | None = None

    @property
    def principal(self) -> Principal:
        """Whoever holds the key."""
        return Principal(self.name, self.admin, self.rate, self.max_in_flight)


def new_key() -> str:
    """Draw a key; all its characters may stand in a URL's password."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_of(key: str) -> str:
    """What the file keeps of a key."""
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


def read_keys(path: Path) -> list[KeyEntry]:
    """Every key of a file. Raises ConfigurationError for a file that is not there, or that is not what it should be."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}; `vaefarm keys add NAME` makes a file") from error
    return _parse(path, text)


def _parse(path: Path, text: str) -> list[KeyEntry]:
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: no TOML: {error}") from error
    if unknown := document.keys() - {"key"}:
        raise ConfigurationError(f"{path}: {sorted(unknown)[0]!r} is not known; expected [[key]] alone")
    raw = document.get("key", [])
    if not isinstance(raw, list):
        raise ConfigurationError(f"{path}: [key] is one table; expected [[key]] for each key")
    entries = []
    for number, one in enumerate(raw, 1):
        try:
            entries.append(KeyEntry.model_validate(one))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ConfigurationError(f"{path}: key {number}: {place}={first['input']!r}: {first['msg']}") from error
    # The name is the owner of jobs, so two holders of one name would see each other's.
    for what in ("name", "hash"):
        seen = [getattr(entry, what) for entry in entries]
        if twice := next((one for one in seen if seen.count(one) > 1), None):
            raise ConfigurationError(f"{path}: {what} {twice!r} is there twice; expected once")
    return entries


def add_key(path: Path, entry: KeyEntry, *, replace: bool = False) -> None:
    """Put a key into a file, which is made if missing; what else stands there, comments too, is left as it is.

    Raises:
        InvalidOption: the name is there, and `replace` is not given.
        ConfigurationError: the file is not what it should be, or cannot be written.
    """
    with _editing(path) as document:
        tables = document.setdefault("key", tomlkit.aot())
        place = next((index for index, one in enumerate(tables) if one["name"] == entry.name), None)
        if place is not None and not replace:
            raise InvalidOption(f"{path} has a key {entry.name!r}; --replace makes a new one in its place")
        table = tomlkit.table()
        table.update(entry.model_dump(exclude_none=True, exclude_defaults=True))
        if place is None:
            tables.append(table)
        else:
            tables[place] = table


def remove_key(path: Path, name: str) -> None:
    """Take a key out of a file. Raises InvalidOption where it is not there; ConfigurationError as `add_key`."""
    with _editing(path) as document:
        tables = document.get("key", [])
        place = next((index for index, one in enumerate(tables) if one["name"] == name), None)
        if place is None:
            raise InvalidOption(f"{path} has no key {name!r}; `vaefarm keys list` shows those that it has")
        del tables[place]
        if not tables:
            del document["key"]


@contextmanager
def _editing(path: Path) -> Iterator[tomlkit.TOMLDocument]:
    """A file's document, written back at the end: nobody ever reads half of it, and of two who edit both are heard."""
    path = path.resolve()
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"{path}: its folder cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if path.exists():
            read_keys(path)
        document = tomlkit.parse(path.read_text(encoding="utf-8") if path.exists() else "")
        yield document
        text = tomlkit.dumps(document)
        _parse(path, text)
        _write(path, text)
        os.fsync(folder)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        os.close(folder)


def _write(path: Path, text: str) -> None:
    """Put a file in another's place, for its owner alone to read."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def new_entry(name: str, key: str, *, admin: bool, rate: str | None, max_in_flight: int | None) -> KeyEntry:
    """An entry for a key that was just drawn. Raises InvalidOption, naming the first value that cannot be one."""
    created = datetime.now(UTC).replace(microsecond=0)
    try:
        return KeyEntry(
            name=name, hash=hash_of(key), admin=admin, rate=rate, max_in_flight=max_in_flight, created=created
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidOption(f"{first['loc'][0]} {first['input']!r}: {first['msg']}") from error
