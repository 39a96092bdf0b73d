"""huey: `RedisHuey`, one worker, blobs in keys of their own."""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator"

import os
import time
from collections.abc import Sequence
from typing import Any, Final

from huey import RedisHuey
from redis import Redis

from . import blobs

#: Seconds between two looks at how many have ended.
LOOK_SECONDS: Final = 0.005

#: Seconds that one job may take.
JOB_SECONDS: Final = 60

# Blocking pops are its default; `notify_result` is its way to low-latency results
# (https://huey.readthedocs.io/en/latest/api.html).
huey = RedisHuey("peer", url=os.environ["PEER_URL"], notify_result=True)


@huey.task()
def decode(job_id: str) -> bool:
    """One job; huey keeps no result that is None."""
    blobs.work([job_id])
    return True


class Side:
    """A push for each job: huey has no bulk enqueue."""

    def __init__(self, url: str) -> None:
        self._connection = Redis.from_url(url)
        self._ids = blobs.new_ids()

    def burst(self, latents: Sequence[bytes]) -> list[bytes]:
        """Images as their jobs end: one worker takes them in order."""
        jobs = self.submit(latents)
        if len(jobs) == 1:
            jobs[0][1].get(blocking=True, timeout=JOB_SECONDS)
            return blobs.take_images(self._connection, [jobs[0][0]])
        job_ids = [job_id for job_id, _ in jobs]
        images: list[bytes] = []
        while len(images) < len(jobs):
            finished = huey.result_count()
            images += blobs.take_images(self._connection, job_ids[len(images) : finished])
            if finished < len(jobs):
                time.sleep(LOOK_SECONDS)
        huey.storage.flush_results()
        return images

    def submit(self, latents: Sequence[bytes]) -> list[tuple[str, Any]]:
        """Store a chunk in a round trip, then push its jobs."""
        jobs = []
        for chunk in blobs.chunks(latents, self._ids):
            with self._connection.pipeline(transaction=False) as pipeline:
                blobs.put_latents(pipeline, chunk)
                pipeline.execute()
            jobs += [(job_id, decode(job_id)) for job_id in chunk]
        return jobs

    def wait(self, jobs: list[tuple[str, Any]]) -> None:
        """Look at how many results there are."""
        while huey.result_count() < len(jobs):
            time.sleep(LOOK_SECONDS)
        huey.storage.flush_results()
