"""Stock RQ: `SimpleWorker`, JSON serializer, blobs in keys of their own."""

# mypy: disable-error-code="no-untyped-call"

import os
import time
from collections.abc import Sequence
from typing import Final

from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from . import blobs

#: Seconds between two looks at how many have ended.
LOOK_SECONDS: Final = 0.005

#: Seconds that one job may take.
JOB_SECONDS: Final = 60

#: What RQ calls for each job, by its name.
DECODE: Final = f"{__package__}.with_rq.decode"


def decode(job_id: str) -> None:
    """One job."""
    blobs.work([job_id])


class Side:
    """Bulk enqueue in the pipeline that stores the latents (https://python-rq.org/docs/, "Bulk Job Enqueueing")."""

    def __init__(self, url: str) -> None:
        self._connection = Redis.from_url(url)
        self._queue = Queue(connection=self._connection, serializer=JSONSerializer)
        self._ids = blobs.new_ids()
        self._ended = 0

    def burst(self, latents: Sequence[bytes]) -> list[bytes]:
        """Images of all; a single job is waited for as RQ's documentation waits for results."""
        if len(latents) == 1:
            return self._one(latents)
        jobs = self.submit(latents)
        return self._take(jobs)

    def submit(self, latents: Sequence[bytes]) -> list[str]:
        """Store and enqueue, a round trip a chunk."""
        job_ids: list[str] = []
        for chunk in blobs.chunks(latents, self._ids):
            with self._connection.pipeline() as pipeline:
                blobs.put_latents(pipeline, chunk)
                prepared = [Queue.prepare_data(DECODE, (job_id,), job_id=job_id) for job_id in chunk]
                self._queue.enqueue_many(prepared, pipeline=pipeline)
                pipeline.execute()
            job_ids += chunk
        return job_ids

    def wait(self, jobs: list[str]) -> None:
        """Look at the registry of finished jobs until it has grown by so many."""
        while self._finished() < len(jobs):
            time.sleep(LOOK_SECONDS)
        self._ended += len(jobs)

    def _take(self, jobs: list[str]) -> list[bytes]:
        """Images as their jobs end: one worker takes them in order."""
        images: list[bytes] = []
        while len(images) < len(jobs):
            finished = self._finished()
            images += blobs.take_images(self._connection, jobs[len(images) : finished])
            if finished < len(jobs):
                time.sleep(LOOK_SECONDS)
        self._ended += len(jobs)
        return images

    def _one(self, latents: Sequence[bytes]) -> list[bytes]:
        (job_id,) = self.submit(latents)
        # A blocking read of the job's results (https://python-rq.org/docs/results/).
        job = Job(job_id, connection=self._connection, serializer=JSONSerializer)
        job.latest_result(timeout=JOB_SECONDS)
        self._ended += 1
        return blobs.take_images(self._connection, [job_id])

    def _finished(self) -> int:
        return int(self._queue.finished_job_registry.get_job_count(cleanup=False)) - self._ended


def work() -> None:
    """A worker in this process: it does not fork for each job, which https://python-rq.org/docs/workers/ calls slow."""
    connection = Redis.from_url(os.environ["PEER_URL"])
    queue = Queue(connection=connection, serializer=JSONSerializer)
    SimpleWorker([queue], connection=connection, serializer=JSONSerializer).work(logging_level="WARNING")


if __name__ == "__main__":
    work()
