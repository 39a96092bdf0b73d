"""A reply cut on the way back, from any command: one job, one list entry, one picture."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
import torch
from tests.conftest import RedisServer, Serve

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.worker import Worker

QUEUE = "rq:queue:vaefarm.demo.normal.s.default"


class CuttingProxy:
    """Stands between a client and Redis, and cuts the connection instead of passing on the n-th reply.

    Clients of ours ask and wait, so what arrives from Redis in one piece is the reply to one request.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._replies = 0
        self._cut_at = -1
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, reply: int) -> None:
        """Cut the connection at that reply from now on, counted from 0."""
        with self._lock:
            self._replies, self._cut_at = 0, reply

    @property
    def has_cut(self) -> bool:
        return 0 <= self._cut_at < self._replies

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(("127.0.0.1", self._target_port))
                for source, sink, counted in ((client, upstream, False), (upstream, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if counted and self._is_cut():
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _is_cut(self) -> bool:
        with self._lock:
            self._replies += 1
            return self._replies - 1 == self._cut_at


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server.port)
    yield proxy
    proxy.close()


def through(settings: Settings, proxy: CuttingProxy) -> Settings:
    return settings.with_redis(f"redis://127.0.0.1:{proxy.port}/0")


@pytest.mark.redis
def test_a_reply_to_any_command_of_submit_may_be_lost(
    settings: Settings, proxy: CuttingProxy, connection: redis.Redis, serve: Serve
) -> None:
    reply = cuts = 0
    while True:
        connection.flushall()
        connection.script_flush()
        proxy.cut(reply)
        with Farm(settings=through(settings, proxy)) as farm:
            job = farm.submit(torch.full((1, 4, 8, 8), float(reply)), vae="demo")
            was_cut = proxy.has_cut
            proxy.cut(-1)

            assert connection.lrange(QUEUE, 0, -1) == [job.id.encode()], f"reply {reply}"
            serve()
            assert job.record().attempts == 1
            assert len(list(connection.scan_iter("vaefarm:image:*"))) == 1
        if not was_cut:
            break
        cuts += 1
        reply += 1
    assert cuts >= 3, "the contract, the script's load and the submit were cut at least"


def test_a_reply_to_any_command_of_a_bulk_submit_may_be_lost(
    settings: Settings, proxy: CuttingProxy, connection: redis.Redis
) -> None:
    reply = 0
    while True:
        connection.flushall()
        connection.script_flush()
        proxy.cut(reply)
        with Farm(settings=through(settings, proxy)) as farm:
            jobs = farm.submit_many([torch.full((1, 4, 8, 8), float(n)) for n in range(20)], vae="demo")
        assert connection.lrange(QUEUE, 0, -1) == [job.id.encode() for job in jobs], f"reply {reply}"
        if not proxy.has_cut:
            break
        reply += 1


@pytest.mark.redis
@pytest.mark.slow
def test_a_reply_to_any_command_of_a_worker_may_be_lost(
    settings: Settings, proxy: CuttingProxy, connection: redis.Redis, farm: Farm
) -> None:
    """Two jobs through a worker, each of its replies cut once: both finish, each with one picture."""
    quick = through(settings, proxy).model_copy(update={"lease_seconds": 1.0, "max_attempts": 20})
    for reply in range(3, 60, 4):
        connection.flushall()
        jobs = farm.submit_many([torch.full((1, 4, 8, 8), float(n)) for n in range(2)], vae="demo")
        worker = Worker(quick, FakeDecoder([Catalogue.load()["demo"]]), f"worker-{reply}")
        proxy.cut(reply)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            assert [job.wait(timeout=20).value for job in jobs] == ["finished", "finished"], f"reply {reply}"
        finally:
            worker.stop()
            thread.join(20)
            proxy.cut(-1)
        assert not thread.is_alive()
        assert len(list(connection.scan_iter("vaefarm:image:*"))) == 2, f"reply {reply}"
        assert not connection.zrange("vaefarm:leases", 0, -1)
        assert not connection.zrange("rq:wip:vaefarm.demo.normal.s.default", 0, -1)


def test_redis_away_for_a_moment_delays_a_submit_and_loses_nothing(
    settings: Settings, proxy: CuttingProxy, connection: redis.Redis
) -> None:
    with Farm(settings=through(settings, proxy)) as farm:
        farm.submit(torch.zeros(1, 4, 8, 8), vae="demo")
        connection.client_kill_filter(_type="normal", skipme=True)

        job = farm.submit(torch.ones(1, 4, 8, 8), vae="demo")

        assert job.status() == "queued"
        assert connection.llen(QUEUE) == 2
