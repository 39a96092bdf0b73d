"""Latents and images in Redis keys of their own, beside a queue that carries ids: for sides that only queue."""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count
from typing import Any, Final

import redis

from . import workload

#: Latents of one round trip: 8 MiB, as much as vaefarm sends in one.
CHUNK: Final = 64

#: Seconds that a latent and an image are kept.
KEPT_SECONDS: Final = 3600


def latent_key(job_id: str) -> str:
    """Where a job's latent lies."""
    return f"latent:{job_id}"


def image_key(job_id: str) -> str:
    """Where a job's image lies."""
    return f"image:{job_id}"


def chunks(latents: Sequence[bytes], ids: Iterator[str]) -> Iterator[dict[str, bytes]]:
    """Latents by their new ids, `CHUNK` at a time."""
    for start in range(0, len(latents), CHUNK):
        yield {next(ids): latent for latent in latents[start : start + CHUNK]}


def new_ids() -> Iterator[str]:
    """Ids that no other job of this process has."""
    return (f"job-{number}" for number in count())


def put_latents(pipeline: "redis.client.Pipeline", latents: dict[str, bytes]) -> None:
    """Add to a pipeline what stores latents."""
    for job_id, latent in latents.items():
        pipeline.set(latent_key(job_id), latent, ex=KEPT_SECONDS)


@cache
def worker_connection() -> redis.Redis:
    """The connection over which a worker moves blobs."""
    return redis.Redis.from_url(os.environ["PEER_URL"])


def work(job_ids: Sequence[str]) -> None:
    """Decode jobs together: latents in one round trip, images in another, which also drops the latents."""
    connection = worker_connection()
    latents: Sequence[Any] = connection.mget([latent_key(job_id) for job_id in job_ids])
    with connection.pipeline(transaction=False) as pipeline:
        for job_id, latent in zip(job_ids, latents, strict=True):
            pipeline.set(image_key(job_id), workload.decode(latent), ex=KEPT_SECONDS)
        pipeline.delete(*(latent_key(job_id) for job_id in job_ids))
        pipeline.execute()


def take_images(connection: redis.Redis, job_ids: Sequence[str]) -> list[bytes]:
    """The images of jobs that have ended, in few round trips."""
    images: list[Any] = []
    for start in range(0, len(job_ids), CHUNK):
        images += connection.mget([image_key(job_id) for job_id in job_ids[start : start + CHUNK]])
    return images
