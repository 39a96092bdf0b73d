"""What a gateway asks of Redis besides what every producer does. Every method blocks."""

from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

import redis

from vaefarm_shared import reading
from vaefarm_shared.connection import farm_errors
from vaefarm_shared.errors import JobNotFound
from vaefarm_shared.job import JobStatus
from vaefarm_shared.reading import Standing

from ..redis_transport import RedisTransport

P = ParamSpec("P")
T = TypeVar("T")


class Backing(RedisTransport):
    """The transport over Redis, with owners and places in queues."""

    def standings(self, job_ids: Sequence[str]) -> list[Standing | JobNotFound]:
        """How each job stands, with its place in its queue, or that nobody knows it."""
        with farm_errors(self._connection):
            return reading.read_standings(self._connection, job_ids)

    def owned_statuses(self, job_ids: Sequence[str]) -> list[tuple[JobStatus, str] | None]:
        """Status and owner of each job; None for one that nobody knows."""
        with farm_errors(self._connection):
            return reading.read_owned_statuses(self._connection, job_ids)

    def ask(self, function: Callable[Concatenate[redis.Redis, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of `vaefarm_shared` that reads. Raises FarmUnavailable."""
        with farm_errors(self._connection):
            return function(self._connection, *args, **kwargs)
