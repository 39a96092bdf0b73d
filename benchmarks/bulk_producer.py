"""A producer that maps over latents as they are made, in a process of its own, without torch, and says what is held.

python -m benchmarks.bulk_producer FARM_URL REDIS_URL JOBS [GATEWAY_PROCESS]     a line of JSON at the end
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import redis
from rq.utils import as_text

from vaefarm_producer import Farm
from vaefarm_shared.connection import connect

from .resident import resident_bytes

#: The VAE of every figure, and the latents: 2 KiB of float16, 128 x 128 pixels.
VAE: Final = "demo"
SHAPE: Final = (1, 4, 16, 16)

#: Seed of the latents, all different.
SEED: Final = 20250101

#: When a sample is taken, in percent of the jobs; the first once what is bounded by a window is there.
PERCENT: Final = (5, 25, 50, 75, 100)

#: Jobs from one look at the peak to the next.
LOOK_JOBS: Final = 1000

#: Keys read in one round trip.
KEYS: Final = 1000


@dataclass(frozen=True, slots=True)
class Sample:
    """What is held once so many pictures have been given; bytes."""

    jobs: int
    seconds: float
    producer: int
    redis: int
    keys: int
    gateway: int | None


@dataclass(slots=True)
class Run:
    """What a run has to tell."""

    samples: list[Sample] = field(default_factory=list)
    looks: list[Sample] = field(default_factory=list)
    cpu_seconds: float = 0.0
    #: At the end: how many keys of each kind there are, and the bytes that they take.
    kinds: dict[str, int] = field(default_factory=dict)
    kind_bytes: dict[str, int] = field(default_factory=dict)


def run(farm_url: str, redis_url: str, jobs: int, gateway: int | None) -> Run:
    """Map over that many latents, and look at who holds what meanwhile."""
    found, marks = Run(), {jobs * percent // 100 for percent in PERCENT}
    with connect(redis_url) as connection, Farm(farm_url) as farm:
        cpu, began = time.process_time(), time.perf_counter()
        for done, result in enumerate(farm.map(drawn(jobs), vae=VAE), start=1):
            assert result.data[0], "a picture of nothing"
            if done in marks or done % LOOK_JOBS == 0:
                seconds = time.perf_counter() - began
                sample = Sample(done, seconds, *held(connection), None if gateway is None else resident_bytes(gateway))
                found.looks.append(sample)
                if done in marks:
                    found.samples.append(sample)
        found.cpu_seconds = time.process_time() - cpu
        found.kinds, found.kind_bytes = kinds(connection)
    return found


def drawn(count: int) -> Iterator[Any]:
    """Latents, each made when it is asked for."""
    draw = np.random.default_rng(SEED)
    for _ in range(count):
        yield draw.standard_normal(SHAPE, np.float32).astype(np.float16)


def held(connection: redis.Redis) -> tuple[int, int, int]:
    """Bytes of this process, bytes allocated by Redis without what clients' buffers hold for a moment, and keys."""
    memory = connection.info("memory")
    allocated = memory["used_memory"] - memory["mem_clients_normal"] - memory["mem_aof_buffer"]
    return resident_bytes(), int(allocated), int(connection.dbsize())


def kinds(connection: redis.Redis) -> tuple[dict[str, int], dict[str, int]]:
    """How many keys there are of each kind, by their names' first two parts, and the bytes that they take."""
    counts, sizes = Counter[str](), Counter[str]()
    cursor = 0
    while True:
        cursor, names = connection.scan(cursor, count=KEYS)
        with connection.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.memory_usage(name, samples=0)
            for name, size in zip(names, pipe.execute(), strict=True):
                kind = ":".join(as_text(name).split(":")[:2])
                counts[kind] += 1
                # Its life may have ended between the two.
                sizes[kind] += size or 0
        if cursor == 0:
            return dict(counts), dict(sizes)


if __name__ == "__main__":
    farm_url, redis_url, jobs, *gateway = sys.argv[1:]
    print(json.dumps(asdict(run(farm_url, redis_url, int(jobs), int(gateway[0]) if gateway else None))))
