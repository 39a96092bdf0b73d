"""A store that cannot be used is one line and exit 2, from the command that an operator types."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.conftest import RedisServer
from tests.s3_server import SECRET_KEY, BucketStore

COMMANDS = {
    "worker": ["worker", "--decoder", "fake", "--vaes", "demo", "--burst", "-v"],
    "gateway": ["gateway", "--port", "0", "-v"],
    "doctor": ["doctor"],
}

RUN = "import sys; {before}; sys.argv[0] = 'vaefarm'; from vaefarm_producer.cli import main; main()"

DENIED = b"<Error><Code>AccessDenied</Code><Message>no, AKIAEXAMPLE, a-secret-that-nobody-prints</Message></Error>"


class Denying(BaseHTTPRequestHandler):
    """A store whose policy allows nothing."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", str(len(DENIED)))
        self.end_headers()
        self.wfile.write(DENIED)

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def denying() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Denying) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@dataclass
class Case:
    """A bad configuration, and what the one line about it says."""

    store: str
    said: str
    #: Other variables.
    environment: dict[str, str]
    before: str = "pass"


@pytest.fixture
def cases(denying: str, bucket: BucketStore, tmp_path: Path) -> dict[str, Case]:
    (tmp_path / "file").write_text("no folder")
    aws = bucket.server.environment
    none = {name: value for name, value in aws.items() if "KEY" not in name}
    return {
        "password": Case("s3://AKIA:hunter2@bucket/farm", "holds a user or a password, which is not shown here", aws),
        "scheme": Case("gcs://bucket", "expected redis://, file:///DIR or s3://BUCKET/PREFIX", aws),
        "bucket": Case("s3://no-such-bucket/farm", "refuses put_object: NoSuchBucket; make the bucket", aws),
        "policy": Case(bucket.url, "refuses put_object: AccessDenied", aws | {"AWS_ENDPOINT_URL_S3": denying}),
        "credentials": Case(bucket.url, "there are no credentials for the store: set AWS_ACCESS_KEY_ID", none),
        "library": Case(bucket.url, "needs s3fs: pip install 'vaefarm[s3]'", aws, "sys.modules['s3fs'] = None"),
        "folder": Case(f"file://{tmp_path}/file/blobs", "cannot be written: Not a directory", {}),
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", ["password", "scheme", "bucket", "policy", "credentials", "library", "folder"])
def test_a_store_that_cannot_be_used_is_one_line_and_exit_2(
    server: RedisServer, cases: dict[str, Case], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = cases[case]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = os.environ | wrong.environment | {"VAEFARM_REDIS_URL": server.url, "VAEFARM_STORE": wrong.store}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-c", RUN.format(before=wrong.before), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, arguments in COMMANDS.items()
    }
    for name, process in started.items():
        out, err = process.communicate(timeout=60)
        lines = [line for line in (out + err).splitlines() if wrong.said in line]
        assert (process.returncode, len(lines)) == (2, 1), f"{name}: {out}\n{err}"
        for secret in ("hunter2", SECRET_KEY, "Traceback"):
            assert secret not in out + err, name


@pytest.mark.slow
def test_a_store_that_can_be_used_is_left_as_it_was_by_the_doctor(server: RedisServer, bucket: BucketStore) -> None:
    environment = os.environ | {"VAEFARM_REDIS_URL": server.url, "VAEFARM_STORE": bucket.url}
    command = [sys.executable, "-m", "vaefarm_producer", "doctor"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout
    assert f"store: {bucket.url}, above 65536 bytes" in told.stdout
    assert bucket.contents() == {}
    bucket.server.stop()
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    bucket.server.start()
    assert told.returncode == 0, told.stdout
    assert "the store does not answer (put_object: EndpointConnectionError)" in told.stdout
