"""A farm of real processes on this machine, and the same work without a farm."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from vaefarm_producer import Farm
from vaefarm_producer.local.demo import wait_for_worker
from vaefarm_producer.local.processes import end, spawn, worker_command
from vaefarm_producer.local.redis_server import LocalRedis
from vaefarm_producer.submission import PreparedJob
from vaefarm_shared import latents
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings
from vaefarm_worker.decoder import Batch, BatchItem, Decoder
from vaefarm_worker.decoders import make_decoder
from vaefarm_worker.encode import encoded_files

from . import cpu

#: The VAE of every figure.
VAE: Final = "demo"

#: Seconds that any one job may take.
JOB_SECONDS: Final = 300.0

#: Seconds that the worker may take to end.
END_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure."""

    jobs: int
    #: Jobs of each burst of `overhead`.
    burst: int
    #: Jobs of the deep queue of `depth`.
    depth: int
    rounds: int
    durable: bool
    threads: int
    device: str
    folder: Path
    #: Names of the sides of `overhead`; all where there are none.
    sides: tuple[str, ...] = ()
    #: Sides of the pictures of `low-memory`; by the device where there are none.
    pixels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FarmUnderTest:
    """A farm whose every process is this run's own."""

    farm: Farm
    server: LocalRedis
    worker: "subprocess.Popen[bytes]"

    def cpu_seconds(self) -> dict[str, float]:
        """User and system seconds that each process has used: this one as `producer`, Redis, the worker."""
        connection = connect(self.server.url)
        redis_cpu = connection.info("cpu")
        connection.close()
        return {
            "producer": time.process_time(),
            "redis": redis_cpu["used_cpu_user"] + redis_cpu["used_cpu_sys"],
            "worker": cpu.family_seconds(self.worker.pid),
        }


@contextmanager
def local_redis(options: Options) -> Iterator[LocalRedis]:
    """A redis-server with an empty folder of its own, removed afterwards."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vaefarm-bench-", dir=options.folder))
        yield stack.enter_context(LocalRedis(Path(folder), durable=options.durable))


@contextmanager
def farm_under_test(options: Options, decoder: str) -> Iterator[FarmUnderTest]:
    """Redis and one worker, serving. Raises ConfigurationError with the worker's last line if it does not start."""
    with farm_with(options, [*worker_command(VAE, options.device), "--decoder", decoder]) as running:
        threads = running.farm.workers()[0].get("threads", options.threads)
        if threads != options.threads:
            raise RuntimeError(f"the worker runs {threads} torch threads, the bare loop {options.threads}")
        yield running


@contextmanager
def farm_with(options: Options, command: list[str], **settings: Any) -> Iterator[FarmUnderTest]:
    """Redis and a worker of any command, with fields of `Settings` for both sides. Raises as `farm_under_test`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VAEFARM_")}
    environment |= {f"VAEFARM_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": python_path()}
    with ExitStack() as stack:
        server = stack.enter_context(local_redis(options))
        log_path = server.folder / "worker.log"
        log = stack.enter_context(log_path.open("wb"))
        farm = stack.enter_context(Farm(settings=Settings.model_construct(**settings).at(server.url)))
        worker = spawn(command, environment | {"VAEFARM_REDIS_URL": server.url}, log)
        stack.callback(end, worker, END_SECONDS)
        wait_for_worker(farm, worker, log_path)
        yield FarmUnderTest(farm, server, worker)


def python_path() -> str:
    """PYTHONPATH with the folder that holds this package, for processes that run its modules."""
    return os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]))


class Bare:
    """The same decoder and encoder in this process, with the same number of threads and no farm."""

    def __init__(self, options: Options, decoder: str) -> None:
        torch.set_num_threads(options.threads)
        self._decoder: Decoder = make_decoder(decoder, [Catalogue.load()[VAE]], options.device)

    def files(self, job: PreparedJob, held: latents.Latents) -> list[bytes]:
        """A job's latents -> the bytes of its pictures."""
        decoded = self._decoder.decode(Batch((BatchItem(job.spec, held),)))[0]
        return encoded_files(decoded, job.spec)
