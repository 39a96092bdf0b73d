"""What living workers say of themselves: anyone who routes, waits or shows the farm reads it here."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import redis
from pydantic import ValidationError
from rq.worker_registration import REDIS_WORKER_KEYS

from . import keys
from .endpoints import EndpointState, read_endpoints
from .queues import parts_of, plain_queue_name
from .rq_bridge import QUEUE_PREFIX, QUEUES_KEY
from .scripts import script
from .told import object_of, text_of

#: Deaths that are kept, and seconds for how long.
DEATHS_KEPT: Final[int] = 20
DEATH_SECONDS: Final[int] = 3600


class WorkerEndpoint(EndpointState):
    """A remote endpoint, as the worker that asks it sees it."""

    #: The worker's name.
    worker: str


def publish_worker(connection: redis.Redis, name: str, description: dict[str, Any]) -> None:
    """Show that a worker lives, and what it serves."""
    connection.set(keys.worker(name), json.dumps({"name": name, **description}), ex=keys.WORKER_SECONDS)


def note_death(connection: redis.Redis, name: str) -> None:
    """Note that a worker's process died without a word."""
    seconds, microseconds = connection.time()
    with connection.pipeline() as pipe:
        pipe.zadd(keys.DEATHS, {name: seconds + microseconds / 1e6})
        pipe.zremrangebyrank(keys.DEATHS, 0, -DEATHS_KEPT - 1)
        pipe.expire(keys.DEATHS, DEATH_SECONDS)
        pipe.execute()


def forget_dead(connection: redis.Redis) -> int:
    """Take workers that died off RQ's lists, which nothing else does, and note deaths that nobody has; how many there
    were.

    Each look at the farm asks for all that are listed: where workers have a new name each time they start, as pods do,
    they would be ever more.
    """
    names = (text_of(key).removeprefix(QUEUE_PREFIX) for key in connection.smembers(QUEUES_KEY))
    vaes = {parts_of(name)[0] for name in names if name.startswith("vaefarm.")}
    queues = [plain_queue_name(vae) for vae in sorted(vaes)]
    return int(script("forget_workers").run(connection, keys.WORKER_SECONDS, DEATHS_KEPT, DEATH_SECONDS, *queues))


def read_workers(connection: redis.Redis) -> list[dict[str, Any]]:
    """What each living worker says of itself, by name. RQ's set of workers is the list: no walk through the keys."""
    return describe_workers(connection, connection.smembers(REDIS_WORKER_KEYS))


def describe_workers(connection: redis.Redis, members: Iterable[bytes | str]) -> list[dict[str, Any]]:
    """As `read_workers`, of the members of RQ's set."""
    found: Any = connection.mget(asked) if (asked := description_keys(members)) else []
    return [one for raw in found if (one := read_description(raw)) is not None]


def read_description(raw: bytes | None) -> dict[str, Any] | None:
    """What a worker says of itself, with what everybody reads of it in its form; None for what nobody can read."""
    found = object_of(raw)
    if found is None:
        return None
    vaes, sizes = found.get("vaes"), found.get("sizes")
    held = sizes.items() if isinstance(sizes, dict) else ()
    return {
        **found,
        "name": str(found.get("name", "")),
        "vaes": vaes if isinstance(vaes, dict) else {},
        "sizes": {vae: classes for vae, classes in held if isinstance(classes, list)},
    }


def description_keys(members: Iterable[bytes | str]) -> list[str]:
    """Where the members of RQ's set describe themselves, by name."""
    return [keys.worker(name) for name in sorted(text_of(key).rpartition(":")[2] for key in members)]


def serves(worker: dict[str, object]) -> set[str]:
    """The VAEs that a worker serves, without those that it could not load, or whose endpoints are away."""
    vaes, unavailable, away = (worker.get(name) for name in ("vaes", "unavailable", "away"))
    served = set(vaes if isinstance(vaes, dict) else ())
    return served.difference(*(not_now for not_now in (unavailable, away) if isinstance(not_now, dict)))


def holders(workers: list[dict[str, Any]], vae: str, size: str) -> set[str]:
    """Names of the workers that serve a VAE and hold pictures of a size class."""
    return {str(one["name"]) for one in workers if size in one.get("sizes", {}).get(vae, ())}


def worker_endpoints(workers: Iterable[Mapping[str, Any]]) -> list[WorkerEndpoint]:
    """The endpoints that these workers ask, one for each worker, by VAE, endpoint and worker."""
    found = []
    for one in workers:
        for state in read_endpoints(dict(one)):
            with suppress(ValidationError):
                found.append(WorkerEndpoint(worker=str(one.get("name", "")), **state.model_dump()))
    return sorted(found, key=lambda endpoint: (endpoint.vae, endpoint.name, endpoint.worker, endpoint.url))
