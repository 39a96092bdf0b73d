"""Services that cannot start as they are configured: one clear line, exit code 2, no traceback, no secret."""

import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from tests.conftest import RedisServer, StartWorker, eventually, redis_servers

from vaefarm_shared.connection import connect
from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.settings import Settings

FAKE = ("worker", "--vaes", "demo", "--decoder", "fake")
GATEWAY = ("gateway", "--port", "0")

#: What no output may hold.
SECRET = "s3cret"

#: Lines that are no complaint: what a service logs as it starts.
LOGGED = re.compile(r"\S+ \S+ (INFO|WARNING) ")


def vaefarm(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a user does; variables with small letters are VAEFARM_*."""
    code = "from vaefarm_producer.cli import main; main()"
    environment = os.environ | {f"VAEFARM_{name.upper()}": value for name, value in env.items()}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def complaint(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line with which a command ended; what else it said are lines of its log."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line and not LOGGED.match(line)]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("vaefarm: ")
    return lines[0]


def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection on a port of this machine so, until the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with closing(connection):
                    try:
                        answer(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def answer_http(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of a server that speaks HTTP."""
    yield from answering(answer_http)


@pytest.fixture
def encrypted_redis(tmp_path: Path) -> Iterator[int]:
    """The port of something that speaks TLS, and then answers as Redis does."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=localhost", "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            while encrypted.recv(4096):
                encrypted.sendall(b"-NOAUTH Authentication required.\r\n" * 3)

    yield from answering(answer)


@pytest.fixture
def guarded(server: RedisServer, connection: redis.Redis) -> Iterator[RedisServer]:
    """A Redis that asks for a password; the user `low` may only ask whether it is there."""
    connection.acl_setuser("low", enabled=True, passwords=["+pw"], commands=["+ping", "+info"], keys=["*"])
    connection.config_set("requirepass", "pw")
    yield server
    connection.config_set("requirepass", "")
    connection.acl_deluser("low")


URLS = [
    "foo://host",
    "localhost:6379",
    f"redis://:{SECRET}@host:port",
    f"redis://me:{SECRET}/%@host",
    f"redis://:{SECRET}#@host:6379",
    f":{SECRET}@host:6379",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_cannot_be_read_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no Redis URL: expected redis://HOST:PORT/DB") as refused:
        connect(url)

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("command", [FAKE, GATEWAY, ("reap",)], ids=lambda command: command[0])
def test_a_service_whose_url_cannot_be_read_ends(command: tuple[str, ...]) -> None:
    line = complaint(vaefarm(*command, redis_url=f"redis://:{SECRET}@host:port"))

    assert line.startswith("vaefarm: 'redis://:***@host:port' is no Redis URL")


@pytest.mark.parametrize("command", [("status",), ("top", "--once")], ids=lambda command: command[0])
def test_a_look_at_a_url_that_cannot_be_taken_apart_ends(command: tuple[str, ...]) -> None:
    line = complaint(vaefarm(*command, redis_url=f"redis://:{SECRET}@[host"))

    assert "is no Redis URL: expected redis://HOST:PORT/DB" in line
    assert SECRET not in line


@pytest.mark.parametrize("command", [FAKE, GATEWAY, ("reap",)], ids=lambda command: command[0])
def test_a_redis_that_stays_away_is_waited_for_and_then_named(command: tuple[str, ...]) -> None:
    done = vaefarm(*command, redis_url=f"redis://:{SECRET}@127.0.0.1:1/0", redis_wait="1.5")

    assert "Redis at redis://127.0.0.1:1/0 did not answer within 1.5 s: " in complaint(done)
    warnings = [line for line in done.stderr.splitlines() if "does not answer yet" in line]
    assert len(warnings) == 1, done.stderr
    assert "Connection refused" in warnings[0]


@pytest.mark.parametrize("command", [FAKE, GATEWAY], ids=lambda command: command[0])
def test_a_redis_that_refuses_the_login_ends_it_at_once(command: tuple[str, ...], guarded: RedisServer) -> None:
    url = guarded.url.replace("//", f"//:{SECRET}@")

    line = complaint(vaefarm(*command, redis_url=url, redis_wait="600"))

    assert f"Redis at {guarded.url} refuses the login: " in line
    assert "are user and password in VAEFARM_REDIS_URL right?" in line


@pytest.mark.redis
def test_a_user_that_may_not_do_what_a_farm_does_is_told_so(guarded: RedisServer) -> None:
    line = complaint(vaefarm("reap", redis_url=guarded.url.replace("//", "//low:pw@"), redis_wait="600"))

    assert f"Redis at {guarded.url} lacks a permission for this user: " in line


def test_what_is_no_redis_is_told_so_at_once(web_server: int) -> None:
    line = complaint(vaefarm("reap", redis_url=f"redis://127.0.0.1:{web_server}", redis_wait="600"))

    assert f"Redis at redis://127.0.0.1:{web_server}/0 is no Redis: " in line


def test_encryption_on_one_side_alone_is_told_at_once(encrypted_redis: int, server: RedisServer) -> None:
    plain = complaint(vaefarm("reap", redis_url=f"redis://127.0.0.1:{encrypted_redis}", redis_wait="600"))
    unknown = complaint(vaefarm("reap", redis_url=f"rediss://127.0.0.1:{encrypted_redis}", redis_wait="600"))
    other = complaint(vaefarm("reap", redis_url=server.url.replace("redis:", "rediss:"), redis_wait="600"))

    assert "speaks TLS, and VAEFARM_REDIS_URL does not: expected rediss://" in plain
    assert "has a certificate that is not trusted: self-signed certificate" in unknown
    assert "speaks no TLS, and VAEFARM_REDIS_URL does: expected redis://" in other


def test_a_replica_is_waited_for_and_then_named(server: RedisServer, tmp_path: Path) -> None:
    replica = RedisServer(server.binary, tmp_path, ("--replicaof", "127.0.0.1", str(server.port)))
    replica.start()
    try:
        line = complaint(vaefarm("reap", redis_url=replica.url, redis_wait="0.5"))
    finally:
        replica.stop()

    assert "read only replica" in line


@pytest.mark.slow
@pytest.mark.parametrize("command", [FAKE, GATEWAY], ids=lambda command: command[0])
def test_a_service_that_starts_before_its_redis_waits_for_it(
    command: tuple[str, ...], tmp_path: Path, free_server: RedisServer
) -> None:
    log_path = tmp_path / "log"
    environment = os.environ | {"VAEFARM_REDIS_URL": free_server.url, "VAEFARM_LOG_FORMAT": "text"}
    code = "from vaefarm_producer.cli import main; main()"
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", code, *command], stdout=log, stderr=log, env=environment)
    try:
        eventually("it waits", lambda: "does not answer yet" in log_path.read_text())
        free_server.start()
        serves = "serves http" if command is GATEWAY else "serves demo"
        eventually("it serves", lambda: serves in log_path.read_text())
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def free_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A redis-server that the test starts."""
    server = RedisServer(next(iter(redis_servers().values())), tmp_path)
    yield server
    server.stop()


def test_sigterm_ends_the_wait_for_redis_with_exit_0() -> None:
    code = "from vaefarm_producer.cli import main; main()"
    environment = os.environ | {"VAEFARM_REDIS_URL": "redis://127.0.0.1:1/0"}
    with subprocess.Popen([sys.executable, "-c", code, *FAKE], stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        assert b"does not answer yet" in process.stderr.readline()
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


#: A command, its variables, and what it says.
REFUSED: list[tuple[tuple[str, ...], dict[str, str], str]] = [
    (("worker", "--vaes", "sd4"), {}, "VAE 'sd4' is not known; expected one of auraflow"),
    (("worker", "--vaes", "demo", "--device", "gpu"), {}, "--device 'gpu' is not known; expected auto, cpu, cuda"),
    (("worker", "--vaes", "demo"), {"lease_seconds": "soon"}, "VAEFARM_LEASE_SECONDS='soon': "),
    (("worker", "--vaes", "demo"), {"idle_unload": "never"}, "VAEFARM_IDLE_UNLOAD"),
    (("worker", "--vaes", "demo"), {"vram_limit": "much"}, "'much' is no number of bytes; expected such as 6GiB"),
    (FAKE, {"store": "ftp://host/folder"}, "VAEFARM_STORE='ftp://host/folder': expected redis://"),
    (FAKE, {"after_decode": "nobody"}, "nobody"),
    (GATEWAY, {"max_attempts": "0"}, "VAEFARM_MAX_ATTEMPTS='0': "),
    (GATEWAY, {"store": "file://folder"}, "VAEFARM_STORE='file://folder': expected redis://"),
    ((*GATEWAY, "--host", "0.0.0.0"), {}, "VAEFARM_KEYS"),
    (("reap",), {"log_format": "xml"}, "VAEFARM_LOG_FORMAT='xml': "),
    (("up", "--vaes", "sd4"), {}, "VAE 'sd4' is not known"),
    (("up",), {"redis_wait": "-1"}, "VAEFARM_REDIS_WAIT='-1': "),
    (("up", "--port", "{taken}"), {}, "port {taken} is taken: name a free one for Redis with --port"),
    (("up", "--gateway-port", "{taken}"), {}, "port {taken} is taken: name a free one with --gateway-port"),
    (("up", "--data", "/dev/null/data"), {}, "/dev/null/data/redis: Not a directory; expected a folder"),
]


@pytest.mark.parametrize(("command", "env", "said"), REFUSED, ids=lambda value: None)
def test_a_service_that_cannot_start_so_says_why_in_one_line(
    command: tuple[str, ...], env: dict[str, str], said: str, server: RedisServer
) -> None:
    taken = str(server.port)

    line = complaint(vaefarm(*(part.format(taken=taken) for part in command), redis_url=server.url, **env))

    assert said.format(taken=taken) in line


def test_a_name_that_a_living_worker_has_is_refused_and_that_worker_stays(
    start_worker: StartWorker, connection: redis.Redis
) -> None:
    first = start_worker("--decoder", "fake")

    done = vaefarm(*FAKE, "--name", first.name, redis_url=first_url(connection))

    assert f"a worker named {first.name!r} is alive: choose another --name" in complaint(done)
    assert connection.exists(f"vaefarm:worker:{first.name}")
    assert first.process.poll() is None


def first_url(connection: redis.Redis) -> str:
    """Where a client's server is."""
    return f"redis://127.0.0.1:{connection.connection_pool.connection_kwargs['port']}/0"


def unreadable() -> list[str]:
    """Every setting that does not take any text."""
    return [
        name
        for name, field in Settings.model_fields.items()
        if not any(kind in str(field.annotation) for kind in ("SecretStr", "<class 'str'>", "str | None"))
    ]


@pytest.mark.parametrize("name", unreadable())
def test_each_setting_that_cannot_be_read_is_named_with_what_it_holds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VAEFARM_{name.upper()}", "nonsense")

    with pytest.raises(ConfigurationError, match=f"^VAEFARM_{name.upper()}='nonsense': ") as refused:
        Settings.from_env()

    assert "\n" not in str(refused.value)
