"""Reading what came of jobs: records, and with them pictures that are not large."""

from collections.abc import Sequence
from typing import Final

import redis
from redis.client import Pipeline

from .reading import pairs, read_record, record_of
from .records import JobRecord
from .scripts import script

#: Bytes of pictures that a record brings along: a script copies them twice more than a command, which for as many takes
#: Redis less than another round trip.
FETCHED_BYTES: Final[int] = 256 * 1024


def read_result(connection: redis.Redis, job_id: str) -> tuple[JobRecord, dict[str, bytes]]:
    """As `read_record`, and with a finished job's record its pictures by their references, in the same round trip.

    None are given that lie outside of Redis, are gone, or have more than FETCHED_BYTES together.
    """
    found = _result(job_id, *script("fetch").run(connection, job_id, FETCHED_BYTES))
    return found or (read_record(connection, job_id), {})


def read_results(connection: redis.Redis, job_ids: Sequence[str]) -> list[tuple[JobRecord, dict[str, bytes]] | None]:
    """As `read_result` for each, in one round trip; None for one that has no record."""
    fetching = script("fetch")

    def fill(pipe: Pipeline) -> None:
        for job_id in job_ids:
            fetching.queue(pipe, job_id, FETCHED_BYTES)

    with connection.pipeline(transaction=False) as pipe:
        replies = fetching.execute(pipe, fill)
    return [_result(job_id, *reply) for job_id, reply in zip(job_ids, replies, strict=True)]


def _result(job_id: str, flat: Sequence[bytes], pictures: Sequence[bytes]) -> tuple[JobRecord, dict[str, bytes]] | None:
    if not flat:
        return None
    return record_of(job_id, dict(pairs(flat))), {name.decode(): data for name, data in pairs(pictures) if data}
