"""No queue: a loop that moves the same bytes in the fewest round trips, which no worker on one Redis can beat."""

import json
import time

import redis

from . import blobs, producer, workload


def main() -> None:
    """Print the figures of this loop, which stands in for a worker, as JSON."""
    arguments = producer.parse()
    connection = redis.Redis.from_url(arguments.url)
    latents, ids = workload.latents(arguments.burst), blobs.new_ids()
    job_ids: list[str] = []
    for chunk in blobs.chunks(latents, ids):
        with connection.pipeline(transaction=False) as pipeline:
            blobs.put_latents(pipeline, chunk)
            pipeline.execute()
        job_ids += chunk
    move(connection, job_ids[: producer.WARM_UP_JOBS])
    before, cpu, began = producer.redis_seconds(arguments.url), time.process_time(), time.perf_counter()
    move(connection, job_ids)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    used = {"worker": cpu, "redis": producer.redis_seconds(arguments.url) - before}
    print(json.dumps({"drain_seconds": seconds, "drain_cpu_seconds": used}))


def move(connection: redis.Redis, job_ids: list[str]) -> None:
    """GET each latent and SET an image of its size, half a chunk in a round trip, the two ways in turn."""
    image, step = bytes(workload.IMAGE_BYTES), blobs.CHUNK // 2
    for start in range(0, len(job_ids), step):
        some = job_ids[start : start + step]
        connection.mget([blobs.latent_key(job_id) for job_id in some])
        with connection.pipeline(transaction=False) as pipeline:
            for job_id in some:
                pipeline.set(blobs.image_key(job_id), image, ex=blobs.KEPT_SECONDS)
            pipeline.execute()


if __name__ == "__main__":
    main()
