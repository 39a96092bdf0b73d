"""What a deep queue costs: claim, submit and status with few and with many jobs queued, and Redis' memory for each."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import redis

from vaefarm_producer import Farm, Job
from vaefarm_shared import keys, leases
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.connection import connect
from vaefarm_shared.leases import Source, Wanted
from vaefarm_shared.queues import PRIORITIES, size_classes
from vaefarm_shared.rq_bridge import QUEUE_PREFIX
from vaefarm_shared.settings import Settings

from . import workload
from .farm_under_test import VAE, Options, local_redis
from .report import Figure, middle

#: The shape of the latents that are queued: as small as the VAE takes.
SHAPE: Final = (1, 4, 1, 1)

#: Jobs of the shallow queue.
FEW: Final = 1000

#: Jobs that one claim takes.
CLAIM_JOBS: Final = 16

#: Jobs of one call while a queue is filled.
FILL_JOBS: Final = 2000

#: Bytes of Redis that the farm may take: the pictures' reserve counts, however small they are.
BUDGET_BYTES: Final = 64 * 1024**3

OPERATIONS: Final = ("claim", "submit", "status")


@dataclass(slots=True)
class Queued:
    """A farm without workers, and the seconds of each operation, round by round."""

    farm: Farm
    connection: redis.Redis
    jobs: list[Job]
    #: Bytes by which Redis grew for each job.
    grown_bytes: float
    seconds: dict[str, list[list[float]]] = field(default_factory=lambda: {name: [] for name in OPERATIONS})


def depth(options: Options) -> Figure:
    """Both depths at once, on a Redis each: they take turns at every single operation."""
    with queued(options, FEW) as few, queued(options, options.depth) as many:
        for _ in range(options.rounds):
            measure(few, many, options.jobs)
        parts = job_bytes(many.connection, many.jobs[0].id)
        entry = list_entry_bytes(many.connection)
    return Figure(
        title=f"depth, latents of 1x4x1x1 float16, claims of {CLAIM_JOBS} jobs, p50 in milliseconds",
        header=("", f"{FEW} queued", f"{options.depth} queued", "ratio"),
        rows=tuple(row(name, few, many) for name in OPERATIONS),
        raw={"few": few.seconds, "many": many.seconds, "bytes": parts, "list_entry_bytes": entry},
        note=memory_note(parts, entry, many),
    )


def row(name: str, few: Queued, many: Queued) -> tuple[str, ...]:
    """Medians of one operation, and round by round their ratio."""
    pairs = [(median(one), median(other)) for one, other in zip(few.seconds[name], many.seconds[name], strict=True)]
    return (
        name,
        middle([1e3 * one for one, _ in pairs], ".3f"),
        middle([1e3 * other for _, other in pairs], ".3f"),
        middle([other / one for one, other in pairs]),
    )


def memory_note(parts: dict[str, int], entry: float, many: Queued) -> str:
    """What a queued job takes of Redis, key by key."""
    each = ", ".join(f"{name} {size}" for name, size in parts.items())
    return (
        f"MEMORY USAGE of one queued job, bytes: {each}, its list entry {entry:.0f};"
        f" in all {sum(parts.values()) + entry:.0f} without the latent."
        f" Redis grew by {many.grown_bytes:.0f} bytes for each, latent and all."
    )


@contextmanager
def queued(options: Options, count: int) -> Iterator[Queued]:
    """A farm with so many jobs queued and no worker."""
    with ExitStack() as stack:
        server = stack.enter_context(local_redis(options))
        connection = stack.enter_context(connect(server.url))
        settings = Settings.model_construct(budget_bytes=BUDGET_BYTES).at(server.url)
        farm = stack.enter_context(Farm(settings=settings))
        before, jobs = used_bytes(connection), list[Job]()
        (held,) = workload.noise(1, SHAPE)
        while len(jobs) < count:
            jobs += farm.submit_many([held] * min(FILL_JOBS, count - len(jobs)), vae=VAE)
        yield Queued(farm, connection, jobs, (used_bytes(connection) - before) / count)


def measure(few: Queued, many: Queued, count: int) -> None:
    """A round: each operation `count` times on either side, the two in turn."""
    (held,) = workload.noise(1, SHAPE)
    for side in (few, many):
        for name in OPERATIONS:
            side.seconds[name].append([])
    for turn in range(count):
        for side in (few, many) if turn % 2 else (many, few):
            timed(side, "submit", lambda side=side: side.farm.submit(held, vae=VAE))  # type: ignore[misc]
            timed(side, "status", side.jobs[turn].status)
            claimed = timed(side, "claim", lambda side=side: leases.claim(side.connection, "bench", wanted()))  # type: ignore[misc]
            assert len(claimed) == CLAIM_JOBS, f"a claim took {len(claimed)} jobs; expected {CLAIM_JOBS}"
            leases.give_back(side.connection, [(one.claim, "free") for one in claimed], "bench")


def timed(side: Queued, name: str, call: Callable[[], Any]) -> Any:
    """What a call returns; its seconds are noted."""
    began = time.perf_counter()
    result = call()
    side.seconds[name][-1].append(time.perf_counter() - began)
    return result


def wanted() -> Wanted:
    """What a worker asks for that serves the VAE in every size."""
    contract = Catalogue.load()[VAE].contract
    assert contract is not None
    sizes = size_classes(None, contract.max_pixels)
    return Wanted([Source(VAE, priority, 0.0, sizes) for priority in PRIORITIES], CLAIM_JOBS, 1 << 40, 60.0)


def used_bytes(connection: redis.Redis) -> int:
    """Bytes that Redis has allocated."""
    return int(connection.info("memory")["used_memory"])


def job_bytes(connection: redis.Redis, job_id: str) -> dict[str, int]:
    """MEMORY USAGE of every key that holds a job's id in its name, except its latent."""
    latent = keys.blob("latent:").encode()
    found = [key for key in connection.scan_iter(match=f"*{job_id}*", count=10_000) if not key.startswith(latent)]
    return {
        key.decode().replace(job_id, "{id}"): int(connection.memory_usage(key, samples=0) or 0) for key in sorted(found)
    }


def list_entry_bytes(connection: redis.Redis) -> float:
    """MEMORY USAGE of the longest queue for each of its entries."""
    queues = {key: int(connection.llen(key)) for key in connection.scan_iter(match=f"{QUEUE_PREFIX}*", count=10_000)}
    longest = max(queues, key=lambda key: queues[key])
    return int(connection.memory_usage(longest, samples=0) or 0) / queues[longest]
