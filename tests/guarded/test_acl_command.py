"""`vaefarm acl`: the file that it writes, and what it keeps to itself."""

import hashlib
import json
from pathlib import Path

import pytest
import redis
from tests.guarded.conftest import GuardedServer
from tests.producer.conftest import Call

from vaefarm_producer.acl_file import HOLDERS
from vaefarm_shared.connection import connect

NOWHERE = "redis://127.0.0.1:1/0"


def test_passwords_are_shown_once_and_the_file_keeps_their_hashes_for_its_owner_and_group(
    vaefarm: Call, tmp_path: Path
) -> None:
    path = tmp_path / "users.acl"
    shown = vaefarm("acl", path, "--json", url=NOWHERE)
    passwords = {one["role"]: one["password"] for one in map(json.loads, shown.stdout.splitlines())}
    text = path.read_text()

    assert tuple(passwords) == HOLDERS
    assert len(set(passwords.values())) == len(HOLDERS)
    for role, password in passwords.items():
        assert password not in text
        assert f"#{hashlib.sha256(password.encode()).hexdigest()}" in text
        assert (f"user vaefarm-{role} on" in text) == (role != "default")
    assert path.stat().st_mode & 0o777 == 0o640
    assert "nopass" not in text


def test_a_password_that_is_given_is_taken_and_never_printed(vaefarm: Call, tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    given = {"VAEFARM_ACL_PASSWORDS": "worker=0123456789abcdef reaper=fedcba9876543210"}
    shown = vaefarm("acl", path, url=NOWHERE, env=given)

    assert shown.returncode == 0, shown
    assert not any(password in shown.stdout + shown.stderr for password in ("0123456789abcdef", "fedcba9876543210"))
    assert hashlib.sha256(b"0123456789abcdef").hexdigest() in path.read_text()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("worker=short", "16 characters or more"),
        ("boss=0123456789abcdef", "ROLE=PASSWORD"),
        ("0123456789abcdef", "ROLE=PASSWORD"),
    ],
)
def test_passwords_that_are_none_are_refused_without_a_word_of_them(
    vaefarm: Call, tmp_path: Path, given: str, says: str
) -> None:
    refused = vaefarm("acl", tmp_path / "users.acl", "--password", given, url=NOWHERE)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert says in refused.stderr
    assert given.rpartition("=")[2] not in refused.stderr
    assert not (tmp_path / "users.acl").exists()


def test_an_update_brings_the_rules_of_this_release_and_keeps_passwords_and_other_users(
    vaefarm: Call, guarded: GuardedServer, administrator: redis.Redis
) -> None:
    path = guarded.folder / "users.acl"
    fresh = path.read_text().splitlines()
    old = [line.replace(" +evalsha", "") for line in fresh] + [f"user backup on #{'0' * 64} ~* &* +@read"]
    path.write_text("\n".join(old) + "\n")
    assert administrator.acl_load()
    with connect(guarded.url_of("worker")) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.evalsha("0" * 40, 0)
    assert "--update" in vaefarm("acl", path, url=NOWHERE).stderr
    updated = vaefarm("acl", path, "--update", url=NOWHERE)
    assert (updated.returncode, updated.stdout) == (0, "")
    assert administrator.acl_load()
    # Anew: with a user's rules Redis closes the connections that the user has.
    with connect(guarded.url_of("worker")) as client, pytest.raises(redis.exceptions.NoScriptError):
        client.evalsha("0" * 40, 0)

    assert path.read_text().splitlines() == [*fresh, old[-1]]


def test_a_file_that_redis_saved_is_read_too(vaefarm: Call, guarded: GuardedServer, administrator: redis.Redis) -> None:
    path = guarded.folder / "users.acl"
    fresh = path.read_text()
    assert administrator.acl_save()
    assert path.read_text() != fresh

    assert vaefarm("acl", path, "--update", url=NOWHERE).returncode == 0
    assert administrator.acl_load()
    with connect(guarded.url_of("reaper")) as client:
        assert client.ping()


def test_what_is_no_acl_file_is_left_alone(vaefarm: Call, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("buy milk\n")

    refused = vaefarm("acl", path, "--update", url=NOWHERE)

    assert (refused.returncode, path.read_text()) == (2, "buy milk\n")
    assert "is no ACL file" in refused.stderr


def test_without_a_file_the_roles_are_shown(vaefarm: Call) -> None:
    roles = [json.loads(line) for line in vaefarm("acl", "--json", url=NOWHERE).stdout.splitlines()]

    assert [one["role"] for one in roles] == ["operator", "gateway", "worker", "reaper"]
    assert all("~vaefarm:* ~rq:* resetchannels " in one["rules"] for one in roles)
