"""A worker's entry in RQ's registry and in ours, so that `rq info` and `vaefarm status` show it."""

import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import redis
from rq.serializers import JSONSerializer
from rq.utils import utcformat
from rq.worker import BaseWorker
from rq.worker_registration import register

from vaefarm_shared import keys
from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.queues import plain_queue_name, size_classes
from vaefarm_shared.workers import publish_worker

from .decoder import Decoder
from .pooled_decoder import PooledDecoder

#: Seconds after which RQ forgets a worker that says nothing.
RQ_WORKER_SECONDS: Final[int] = 30

#: Seconds between two signs of life.
HEARTBEAT_SECONDS: Final[float] = 5.0

#: Counters that a description holds twice, as they are and as they were, and how many signs of life ago that was: a
#: reader who looks once knows what the last seconds were like.
COUNTERS: Final[tuple[str, ...]] = ("up_seconds", "busy_seconds", "pictures")
BEFORE: Final[int] = 2


class Registration:
    """Birth, signs of life, death."""

    def __init__(self, connection: redis.Redis, name: str, decoder: Decoder) -> None:
        """`connection` must be this registration's own: RQ changes its timeouts."""
        self._connection = connection
        self._name = name
        self._decoder = decoder
        self._born = time.time()
        self._rq_worker = BaseWorker(
            [plain_queue_name(vae) for vae in decoder.vaes],
            name=name,
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=RQ_WORKER_SECONDS,
        )
        #: The size classes that the decoder holds, by VAE; read anew at each sign of life.
        self.sizes = held_sizes(decoder)
        #: What else the worker tells of itself, read at each sign of life.
        self.figures: Callable[[], dict[str, Any]] = dict
        self._before: deque[dict[str, Any]] = deque([dict.fromkeys(COUNTERS, 0)], maxlen=BEFORE)

    def birth(self) -> None:
        """Enter, and publish the contracts that producers check latents against. May be repeated.

        Raises:
            ConfigurationError: another worker of that name lives.
        """
        try:
            self._rq_worker.register_birth()
        except ValueError as error:
            born = self._rq_worker.birth_date
            # The reply to an earlier try may have been lost after it took effect.
            if born is None or self._connection.hget(self._rq_worker.key, "birth") != utcformat(born).encode():
                raise ConfigurationError(f"a worker named {self._name!r} is alive: choose another --name") from error
        for vae in self._decoder.vaes:
            self._tell_contract(vae)
        self.heartbeat()

    def _tell_contract(self, vae: str) -> None:
        # What a worker with the weights read from them counts for more than what the catalogue says.
        is_told = isinstance(self._decoder, PooledDecoder) and not self._decoder.has_weights(vae)
        contract = self._decoder.vaes[vae].contract.model_dump_json()
        self._connection.set(keys.contract(vae), contract, ex=keys.CONTRACT_SECONDS, nx=is_told)

    def heartbeat(self) -> None:
        """Say that the worker lives."""
        with self._connection.pipeline() as pipe:
            self._rq_worker.heartbeat(RQ_WORKER_SECONDS, pipe)
            # One that said nothing for so long that its entries ended was taken off the lists (`forget_dead`).
            register(self._rq_worker, pipe)
            pipe.zrem(keys.DEATHS, self._name)
            pipe.execute()
        figures, self.sizes = self.figures(), held_sizes(self._decoder)
        counts: dict[Any, Any] = {
            "successful_job_count": figures.get("finished", 0),
            "failed_job_count": figures.get("failed", 0),
        }
        self._connection.hset(self._rq_worker.key, mapping=counts)
        for vae in self._decoder.vaes:
            if not self._connection.expire(keys.contract(vae), keys.CONTRACT_SECONDS):
                # Redis lost it.
                self._tell_contract(vae)
        publish_worker(self._connection, self._name, self._description(figures))
        self._before.append({name: figures.get(name, 0) for name in COUNTERS})

    def death(self) -> None:
        """Leave."""
        self._rq_worker.register_death()
        self._connection.delete(keys.worker(self._name))

    def _description(self, figures: dict[str, Any]) -> dict[str, Any]:
        return {
            "vaes": {vae: served.revision for vae, served in self._decoder.vaes.items()},
            "since": self._born,
            "host": socket.gethostname(),
            "sizes": self.sizes,
            "device_id": self._decoder.device_id,
            "hot": [vae for vae in self._decoder.vaes if self._decoder.is_hot(vae)],
            "before": self._before[0],
            **figures,
            **self._decoder.describe(),
        }


def held_sizes(decoder: Decoder) -> dict[str, tuple[str, ...]]:
    """The size classes of which a decoder holds every picture, by VAE."""
    return {vae: sizes_of(decoder, vae) for vae in decoder.vaes}


def sizes_of(decoder: Decoder, vae: str) -> tuple[str, ...]:
    """The same of a VAE that the decoder serves."""
    return size_classes(decoder.max_pixels(vae), decoder.vaes[vae].contract.max_pixels)
