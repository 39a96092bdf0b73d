"""A redis-server that knows its users by the file that `vaefarm acl` writes, in the clear and over TLS."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

import pytest
import redis
import trustme
from tests.conftest import RedisServer, redis_servers
from tests.producer.conftest import vaefarm as vaefarm
from typer.testing import CliRunner

from vaefarm_producer.cli import app
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings


@dataclass
class GuardedServer(RedisServer):
    """A redis-server with users, and what it takes to be let in as one of them."""

    #: Passwords by role; those of `default` administer it.
    passwords: dict[str, str] = field(default_factory=dict)
    #: redis-py's options for TLS; none in the clear.
    tls: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.url_of("default")

    def url_of(self, role: str, password: str | None = None, **tls: str) -> str:
        """The address for one role; `tls`: other options than the right ones, those that are empty left out."""
        user = role if role == "default" else f"vaefarm-{role}"
        options = {name: value for name, value in (self.tls | tls).items() if value}
        scheme, query = ("rediss", f"?{urlencode(options)}") if self.tls else ("redis", "")
        return f"{scheme}://{user}:{password or self.passwords[role]}@localhost:{self.port}/0{query}"

    def settings_of(self, role: str, **options: object) -> Settings:
        """Settings of a part of the farm that is let in as that role."""
        return Settings.from_env(redis_url=self.url_of(role), submit_timeout=10.0, lease_seconds=2.0, **options)

    def denied(self) -> list[dict[str, str]]:
        """What Redis has refused so far, by its ACL LOG."""
        with connect(self.url) as administrator:
            logged = administrator.acl_log()
        return [{name: one[name] for name in ("reason", "object", "context", "username")} for one in logged]


def write_acl(path: Path) -> dict[str, str]:
    """Have `vaefarm acl` write the file; passwords by role."""
    result = CliRunner().invoke(app, ["acl", str(path), "--json"])
    assert result.exit_code == 0, result.output
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    return {one["role"]: one["password"] for one in shown}


@pytest.fixture
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GuardedServer]:
    """A redis-server in the clear, of each version where the test is marked `redis`."""
    folder = tmp_path / "guarded"
    folder.mkdir()
    passwords = write_acl(folder / "users.acl")
    options = ("--aclfile", str(folder / "users.acl"))
    server = GuardedServer(redis_servers()[request.param], folder, options, passwords=passwords)
    server.start()
    yield server
    server.stop()


@cache
def speaks_tls(binary: str) -> bool:
    """Whether a redis-server was built with TLS."""
    # With a certificate that is not there each ends at once, and says what it could not do.
    options = ("--port", "0", "--tls-port", "1", "--tls-cert-file", "/nowhere")
    ended = subprocess.run([binary, *options], capture_output=True, text=True, timeout=10, check=False)
    return "Failed to configure TLS" in ended.stdout


@pytest.fixture
def guarded_by_tls(tmp_path: Path) -> Iterator[GuardedServer]:
    """A redis-server that speaks TLS alone, and wants a client certificate of its own CA."""
    binary = next((one for one in redis_servers().values() if speaks_tls(one)), None)
    if binary is None:
        pytest.skip(f"no redis-server with TLS among {', '.join(redis_servers())}")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, certificate in (
        ("server", authority.issue_cert("localhost")),
        ("client", authority.issue_cert("worker.example")),
    ):
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    passwords = write_acl(tmp_path / "users.acl")
    server = GuardedServer(binary, tmp_path, passwords=passwords)
    server.options = (
        *("--aclfile", str(tmp_path / "users.acl"), "--port", "0", "--tls-port", str(server.port)),
        *("--tls-cert-file", str(tmp_path / "server.pem"), "--tls-key-file", str(tmp_path / "server.key")),
        *("--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "yes"),
    )
    server.tls = {
        "ssl_ca_certs": str(tmp_path / "ca.pem"),
        "ssl_certfile": str(tmp_path / "client.pem"),
        "ssl_keyfile": str(tmp_path / "client.key"),
    }
    server.start()
    yield server
    server.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As for `server`: on one redis-server, with the mark `redis` on each version."""
    if "guarded" in metafunc.fixturenames:
        versions = list(redis_servers()) or ["none"]
        if metafunc.definition.get_closest_marker("redis") is None:
            versions = versions[:1]
        metafunc.parametrize("guarded", versions, indirect=True, ids=versions)


@pytest.fixture
def administrator(guarded: GuardedServer) -> Iterator[redis.Redis]:
    """Whoever administers that server."""
    with connect(guarded.url) as client:
        yield client
