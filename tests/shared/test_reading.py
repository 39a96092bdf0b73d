"""Reading a job that others change meanwhile."""

import numpy as np
import pytest
import redis

from vaefarm_producer import Farm, JobExpired
from vaefarm_shared.job import JobStatus
from vaefarm_shared.reading import read_record
from vaefarm_shared.settings import Settings

LATENTS = np.zeros((1, 4, 8, 8), np.float16)


def test_a_job_that_is_submitted_anew_while_it_is_read_is_found(
    settings: Settings, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Farm(settings=settings) as farm:
        job = farm.submit(LATENTS, vae="demo", job_id="again")
        job.discard()
        with pytest.raises(JobExpired):
            job.result(timeout=10)
        before = connection.hgetall

        def just_before(key: str) -> object:
            found = before(key)
            farm.submit(LATENTS, vae="demo", job_id="again")
            return found

        monkeypatch.setattr(connection, "hgetall", just_before)

        assert read_record(connection, "again").status is JobStatus.QUEUED
