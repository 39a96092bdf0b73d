"""Celery: solo pool, late acknowledgement, JSON, blobs in keys of their own."""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator"

import os
from collections.abc import Sequence
from typing import Any

from celery import Celery
from redis import Redis

from . import blobs

#: Settings by https://docs.celeryq.dev/en/stable/userguide/optimizing.html and .../configuration.html.
SETTINGS = {
    "task_acks_late": True,
    # "Reserve one task at a time".
    "worker_prefetch_multiplier": 1,
    "worker_disable_rate_limits": True,
    "worker_send_task_events": False,
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "broker_connection_retry_on_startup": True,
}

app = Celery("peer", broker=os.environ["PEER_URL"], backend=os.environ["PEER_URL"])
app.conf.update(SETTINGS)


@app.task(name="decode")
def decode(job_id: str) -> None:
    """One job."""
    blobs.work([job_id])


class Side:
    """A call for each job: a group would send them one by one too, and sign each."""

    task: Any = decode

    def __init__(self, url: str) -> None:
        self._connection = Redis.from_url(url)
        self._ids = blobs.new_ids()

    def burst(self, latents: Sequence[bytes]) -> list[bytes]:
        """Images of all, a chunk at a time as its tasks end."""
        jobs, images = self.submit(latents), list[bytes]()
        for start in range(0, len(jobs), blobs.CHUNK):
            some = jobs[start : start + blobs.CHUNK]
            self.wait(some)
            images += blobs.take_images(self._connection, [job_id for job_id, _ in some])
        return images

    def submit(self, latents: Sequence[bytes]) -> list[tuple[str, Any]]:
        """Store a chunk in a round trip, then send its tasks."""
        jobs = []
        for chunk in blobs.chunks(latents, self._ids):
            with self._connection.pipeline(transaction=False) as pipeline:
                blobs.put_latents(pipeline, chunk)
                pipeline.execute()
            jobs += [(job_id, self.task.delay(job_id)) for job_id in chunk]
        return jobs

    def wait(self, jobs: list[tuple[str, Any]]) -> None:
        """The results one after another; the backend announces them."""
        for _, result in jobs:
            result.get()
