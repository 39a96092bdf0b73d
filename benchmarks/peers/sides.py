"""Who takes part, and the commands of their workers."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import workload
from .environments import environment
from .with_vaefarm import VAE

Command = list[str]


@dataclass(frozen=True, slots=True)
class Side:
    """One row of the table."""

    name: str
    #: The module of its producer.
    module: str
    #: Its Python -> the command of its worker; None where the producer does all.
    worker: Callable[[str], Command] | None
    #: The name of its environment; None for this one.
    environment: str | None = None
    #: Whether jobs go through Redis.
    on_redis: bool = True
    #: The module that runs its round.
    program: str = "producer"

    def python(self) -> str:
        """Its interpreter. Raises ConfigurationError if its environment cannot be made."""
        return sys.executable if self.environment is None else str(environment(self.environment))


def _vaefarm(python: str) -> Command:
    fake = ["--decoder", "fake", "--fake-image-bytes", str(workload.IMAGE_BYTES)]
    return [python, "-m", "vaefarm_worker", "--vaes", VAE, "--device", "cpu", *fake]


def _celery(module: str) -> Callable[[str], Command]:
    # Without talk between workers, of which there is one
    # (https://docs.celeryq.dev/en/stable/reference/cli.html#celery-worker).
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    return lambda python: [
        python, "-m", "celery", "-A", f"{__package__}.{module}", "worker", "--pool", "solo", *quiet
    ]  # fmt: skip


def _huey(python: str) -> Command:
    # https://huey.readthedocs.io/en/latest/consumer.html#options-for-the-consumer
    options = ["--workers", "1", "--worker-type", "thread", "--no-periodic", "--quiet"]
    return [python, str(Path(python).with_name("huey_consumer")), f"{__package__}.with_huey.huey", *options]


def _work(module: str) -> Callable[[str], Command]:
    return lambda python: [python, "-m", f"{__package__}.{module}"]


#: Every side, in the table's order.
SIDES: Final = (
    Side("vaefarm", "with_vaefarm", _vaefarm),
    Side("RQ SimpleWorker", "with_rq", _work("with_rq"), "rq"),
    Side("Celery solo", "with_celery", _celery("with_celery"), "celery"),
    Side("celery-batches", "with_celery_batches", _celery("with_celery_batches"), "celery-batches"),
    Side("huey", "with_huey", _huey, "huey"),
    Side("LitServe", "with_litserve", _work("with_litserve"), "litserve", on_redis=False),
    Side("bytes only", "bytes_only", None, "rq", program="bytes_only"),
)
