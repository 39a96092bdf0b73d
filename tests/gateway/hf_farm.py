"""A farm for clients of the Hugging Face protocol: redis-server, a worker that decodes, a gateway over real HTTP."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from tests.conftest import RedisServer, eventually, redis_servers

from vaefarm_producer import Farm
from vaefarm_producer.gateway.app import create_app
from vaefarm_producer.gateway.key_file import add_key, new_entry, new_key
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings


@dataclass(frozen=True)
class HfFarm:
    """A farm, by HTTP and by Redis."""

    #: The gateway's address, with the key in it: the protocol's clients set no headers of their caller's.
    url: str
    farm: Farm

    def vae(self, vae: str) -> str:
        """The endpoint of a VAE."""
        return f"{self.url}/hf/{vae}"


@contextmanager
def running_farm(folder: Path, catalogue: Path, vaes: str = "demo,flux") -> Iterator[HfFarm]:
    """Redis, a worker for those VAEs on the CPU, and a gateway that others can call, with a key."""
    redis = RedisServer(next(iter(redis_servers().values())), folder)
    redis.start()
    settings = Settings.from_env(redis_url=redis.url, catalogue=str(catalogue))
    worker = start_worker(settings, vaes, folder / "worker.log")
    try:
        key, host = new_key(), own_address()
        entry = new_entry("someone", key, admin=False, rate=None, max_in_flight=None)
        add_key(folder / "keys.toml", entry)
        with running_gateway(settings, host, keys=folder / "keys.toml") as address, Farm(settings=settings) as farm:
            yield HfFarm(f"http://vaefarm:{key}@{address}", farm)
    finally:
        worker.kill()
        worker.wait()
        redis.stop()


def start_worker(settings: Settings, vaes: str, log_path: Path) -> "subprocess.Popen[bytes]":
    """A worker in a process of its own, which serves when this returns."""
    environment = os.environ | {
        "VAEFARM_REDIS_URL": settings.redis_url.get_secret_value(),
        "VAEFARM_CATALOGUE": str(settings.catalogue),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "vaefarm_worker", "--vaes", vaes, "--device", "cpu", "--name", "hf"]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    connection = connect(settings.redis_url.get_secret_value())
    eventually("the worker serves", lambda: process.poll() is not None or connection.exists("vaefarm:worker:hf"))
    connection.close()
    assert process.poll() is None, log_path.read_text()
    return process


def own_address() -> str:
    """An address of this machine that is not its loopback; that one where it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: this asks by which address one would go there.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@contextmanager
def running_gateway(settings: Settings, host: str, **options: object) -> Iterator[str]:
    """A gateway on a thread with a loop of its own, for clients that block; its host and port."""
    ready, stop, address = threading.Event(), asyncio.Event(), [""]
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.AppRunner(
            create_app(settings, GatewaySettings.from_env(**options), host), handler_cancellation=True, access_log=None
        )
        await runner.setup()
        await web.TCPSite(runner, host, 0).start()
        address[0] = f"{host}:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(10), "the gateway does not start"
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
