"""The file of keys, and `vaefarm keys`."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer
from tests.gateway.conftest import Keys
from typer.testing import CliRunner

from vaefarm_producer.gateway.key_commands import app
from vaefarm_producer.gateway.key_file import add_key, hash_of, new_entry, new_key, read_keys
from vaefarm_shared.errors import ConfigurationError, InvalidOption


def vaefarm_keys(*arguments: str) -> str:
    """What `vaefarm keys` prints to standard output."""
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_key_is_printed_once_and_the_file_keeps_its_hash_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = vaefarm_keys("add", "web", "--rate", "10/second", "--max-in-flight", "5", "--file", str(path)).strip()

    [entry] = read_keys(path)
    assert (entry.name, entry.hash, entry.rate, entry.max_in_flight) == ("web", hash_of(key), "10/second", 5)
    assert key.startswith("vf_")
    assert len(key) == 46
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_name_has_one_key_and_replace_makes_another(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    file = ("--file", str(path))
    first = vaefarm_keys("add", "web", *file).strip()
    with pytest.raises(InvalidOption, match="--replace"):
        vaefarm_keys("add", "web", *file)
    second = vaefarm_keys("add", "web", "--replace", *file).strip()

    assert [entry.hash for entry in read_keys(path)] == [hash_of(second)]
    assert first != second


def test_list_says_what_keys_may_and_never_their_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEFARM_KEYS", str(tmp_path / "keys.toml"))
    vaefarm_keys("add", "ops", "--admin")
    vaefarm_keys("add", "web", "--rate", "5/minute")
    listed = [json.loads(line) for line in vaefarm_keys("list", "--json").splitlines()]

    assert [(one["name"], one["admin"], one["rate"]) for one in listed] == [
        ("ops", True, None),
        ("web", False, "5/minute"),
    ]
    assert "sha256" not in vaefarm_keys("list") + json.dumps(listed)


def test_remove_takes_one_key_and_leaves_comments_and_the_others(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    for name in ("one", "two"):
        vaefarm_keys("add", name, "--file", str(path))
    path.write_text("# of the office\n" + path.read_text())
    vaefarm_keys("remove", "one", "--file", str(path))

    assert [entry.name for entry in read_keys(path)] == ["two"]
    assert path.read_text().startswith("# of the office")
    with pytest.raises(InvalidOption, match="no key 'one'"):
        vaefarm_keys("remove", "one", "--file", str(path))
    vaefarm_keys("remove", "two", "--file", str(path))
    assert read_keys(path) == []


@pytest.mark.parametrize("name", ["admin", "", "a/b", "a b", "a\nb", "ä", "x" * 65])
def test_names_that_cannot_own_jobs_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOption, match="name"):
        new_entry(name, "vf_x", admin=False, rate=None, max_in_flight=None)


@pytest.mark.parametrize("rate", ["fast", "", "10", "0/second", "1/second; none"])
def test_rates_that_say_nothing_are_refused(rate: str) -> None:
    with pytest.raises(InvalidOption, match="rate"):
        new_entry("web", "vf_x", admin=False, rate=rate, max_in_flight=None)


def test_of_many_who_add_at_a_time_all_are_heard(keys: Keys) -> None:
    def add(number: int) -> None:
        add_key(keys.path, new_entry(f"key-{number}", new_key(), admin=False, rate=None, max_in_flight=None))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(40)))

    assert {entry.name for entry in read_keys(keys.path)} == {f"key-{number}" for number in range(40)}
    assert [path.name for path in keys.path.parent.iterdir()] == [keys.path.name]


HASH = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[key]", "no TOML"),
        ("[key]\nname = 'a'", "one table"),
        ("keys = []", "'keys' is not known"),
        (f"[[key]]\nhash = '{HASH}'", "key 1: name"),
        ("[[key]]\nname = 'a'", "key 1: hash"),
        ("[[key]]\nname = 'a'\nhash = 'vf_secret'", "key 1: hash"),
        (f"[[key]]\nname = 'admin'\nhash = '{HASH}'", "not 'admin'"),
        (f"[[key]]\nname = 'a'\nhash = '{HASH}'\nrate = 'fast'", "key 1: rate"),
        (f"[[key]]\nname = 'a'\nhash = '{HASH}'\nadmins = true", "key 1: admins"),
        (f"[[key]]\nname = 'a'\nhash = '{HASH}'\nmax_in_flight = 0", "key 1: max_in_flight"),
        (f"[[key]]\nname = 'a'\nhash = '{HASH}'\n" * 2, "name 'a' is there twice"),
        (f"[[key]]\nname = 'a'\nhash = '{HASH}'\n[[key]]\nname = 'b'\nhash = '{HASH}'", "hash .* is there twice"),
    ],
)
def test_a_broken_file_is_refused_by_what_is_broken_and_never_edited(keys: Keys, text: str, says: str) -> None:
    keys.path.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        read_keys(keys.path)
    with pytest.raises(ConfigurationError, match=says):
        keys.make("web")
    assert keys.path.read_text() == text


def test_every_character_of_a_key_may_stand_in_an_address() -> None:
    assert all(one.isascii() and (one.isalnum() or one in "_-") for one in new_key())


def test_the_command_is_one_of_vaefarms() -> None:
    from vaefarm_producer.cli import LazyGroup

    command = LazyGroup(name="vaefarm").get_command(None, "keys")
    assert isinstance(command, typer.core.TyperGroup)
    assert set(command.commands) == {"add", "list", "remove"}
