"""A Redis on another host: TLS with its own CA, client certificates, users; and what is said where one is wrong."""

import json
import os
import re
import ssl
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import redis
import trustme
from tests.guarded.conftest import GuardedServer
from tests.producer.conftest import Call

from vaefarm_producer import Farm
from vaefarm_shared import keys
from vaefarm_shared.connection import address, connect, farm_errors
from vaefarm_shared.errors import FarmUnavailable, RedisRefused
from vaefarm_shared.refusals import refusal_of

LATENTS = np.zeros((1, 4, 8, 8), np.float32)

#: What is wrong, as options of the URL, and what is said of it.
WRONG = {
    "no CA that knows it": ({"ssl_ca_certs": ""}, "certificate that is not trusted: .*ssl_ca_certs=FILE"),
    "another CA": ({"ssl_ca_certs": "other.pem"}, "certificate that is not trusted: .*ssl_ca_certs=FILE"),
    "no client certificate": (
        {"ssl_certfile": "", "ssl_keyfile": ""},
        "wants a client certificate .*ssl_certfile=FILE",
    ),
    "one of another CA": (
        {"ssl_certfile": "mallory.pem", "ssl_keyfile": "mallory.key"},
        "does not believe the client certificate, .*ssl_certfile=FILE",
    ),
    "another's key": ({"ssl_keyfile": "mallory.key"}, "KEY_VALUES_MISMATCH.*of another pair"),
    "a file that is not there": ({"ssl_ca_certs": "/nowhere/ca.pem"}, "a file of ssl_ca_certs.* is missing"),
}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with another CA, and a client certificate of that one."""
    other = trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    certificate = other.issue_cert("mallory.example")
    certificate.private_key_pem.write_to_path(tmp_path / "mallory.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "mallory.pem")
    return tmp_path


@pytest.mark.slow
def test_a_job_is_decoded_over_tls_by_a_worker_with_a_certificate_and_a_user(
    guarded_by_tls: GuardedServer, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    command = [sys.executable, "-m", "vaefarm_worker", "--vaes", "demo", "--decoder", "fake", "--name", "far"]
    environment = os.environ | {"VAEFARM_REDIS_URL": guarded_by_tls.url_of("worker")}
    with Farm(settings=guarded_by_tls.settings_of("gateway")) as farm, log.open("wb") as written:
        job = farm.submit(LATENTS, vae="demo")
        worker = subprocess.Popen(command, env=environment, stdout=written, stderr=written)
        try:
            assert job.image(timeout=60).size == (64, 64), log.read_text()
        finally:
            worker.terminate()
            worker.wait(30)

    assert guarded_by_tls.denied() == [], log.read_text()
    with connect(guarded_by_tls.url_of("worker")) as client:
        assert address(client) == f"rediss://localhost:{guarded_by_tls.port}/0"
        assert not client.exists(keys.LEASES)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_certificate_is_told_in_one_line_at_once_with_exit_2(
    guarded_by_tls: GuardedServer, foreign: Path, vaefarm: Call, case: str
) -> None:
    options, says = WRONG[case]
    paths = {name: str(foreign / value) if value else "" for name, value in options.items()}
    url = guarded_by_tls.url_of("operator", **paths)
    began = time.monotonic()

    for command in (("status",), ("pause", "demo")):
        done = vaefarm(*command, url=url)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        assert_says(says, done.stderr, guarded_by_tls)
    finding = json.loads(vaefarm("doctor", "--json", url=url).stdout)

    assert (finding["level"], finding["check"]) == ("error", "Redis")
    assert_says(says, finding["message"], guarded_by_tls)
    assert time.monotonic() - began < 10, "repeated as if Redis were away"


def assert_says(expected: str, line: str, server: GuardedServer) -> None:
    """One line says so, and tells no password."""
    assert re.search(expected, line), line
    assert not any(password in line for password in server.passwords.values())


@pytest.mark.parametrize("command", [("status",), ("worker", "--vaes", "demo"), ("reap",), ("gateway", "--port", "0")])
def test_a_wrong_password_is_told_in_one_line_with_exit_2(
    guarded_by_tls: GuardedServer, vaefarm: Call, command: tuple[str, ...]
) -> None:
    done = vaefarm(*command, url=guarded_by_tls.url_of("worker", password="wrong-" * 4))

    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
    assert "refuses the login" in done.stderr
    assert "VAEFARM_REDIS_URL" in done.stderr
    assert "wrong-wrong" not in done.stderr


def test_a_certificate_of_another_name_is_not_believed(guarded_by_tls: GuardedServer) -> None:
    renamed = guarded_by_tls.url_of("worker").replace("localhost", "127.0.0.1")
    with (
        connect(renamed) as client,
        pytest.raises(RedisRefused, match="not valid for '127.0.0.1'"),
        farm_errors(client),
    ):
        client.ping()


def test_what_a_user_may_not_do_is_told_as_such_and_not_repeated(
    guarded: GuardedServer, administrator: redis.Redis
) -> None:
    administrator.execute_command("ACL", "SETUSER", "vaefarm-gateway", "-evalsha")
    settings = guarded.settings_of("gateway").model_copy(update={"submit_timeout": 60.0})
    with Farm(settings=settings) as farm, pytest.raises(RedisRefused, match="lacks a permission .*`vaefarm acl`"):
        farm.submit(LATENTS, vae="demo")


@pytest.mark.redis
def test_what_a_script_may_not_do_is_told_as_such(guarded: GuardedServer, administrator: redis.Redis) -> None:
    administrator.execute_command("ACL", "SETUSER", "vaefarm-gateway", "-xadd")
    with Farm(settings=guarded.settings_of("gateway")) as farm, pytest.raises(RedisRefused, match="`vaefarm acl`"):
        farm.submit(LATENTS, vae="demo")


def test_a_server_that_ends_is_away_and_refuses_nothing(guarded_by_tls: GuardedServer) -> None:
    with connect(guarded_by_tls.url_of("worker")) as client:
        client.ping()
        guarded_by_tls.stop()
        for _ in range(2):
            with pytest.raises(FarmUnavailable, match="is not reachable") as error, farm_errors(client):
                client.ping()
            assert not isinstance(error.value, RedisRefused)


def test_a_connection_that_breaks_is_no_refusal() -> None:
    error = redis.ConnectionError("Error while reading")
    error.__cause__ = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")

    assert refusal_of(error) is None
    assert refusal_of(redis.TimeoutError("Timeout reading from socket")) is None
