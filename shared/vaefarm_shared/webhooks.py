"""Who is to be told of jobs' ends: an outbox in Redis. Nothing is sent here.

The step that ends a job which names a webhook puts its end down (`put_webhook` in `lua/lib.lua`), so that none is lost
and each is delivered at least once, also when the job is discarded meanwhile. A deliverer claims what is due, calls,
and answers. What it claimed is due again after a while: one that was killed is repeated.

A job that is retried and ends again replaces its earlier end, which an answer in its name then leaves alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from . import keys
from .job import JobStatus
from .scripts import script


@dataclass(frozen=True, slots=True)
class Delivery:
    """A job's end, for one call of its webhook."""

    job_id: str
    url: str
    owner: str
    status: JobStatus
    #: Why it failed, expired or was canceled; '' for none.
    reason: str
    #: Unix seconds by Redis' clock, as written: it names this end.
    ended_at: str
    #: How often it was claimed, this time too.
    attempts: int
    traceparent: str | None


def claim_due(connection: redis.Redis, count: int, hold_seconds: float) -> list[Delivery]:
    """Up to `count` deliveries that are due, the one that waits longest first, in one round trip.

    `hold_seconds`: after so long each is due again, unless `delivered` or `failed` says otherwise.
    """
    return [_delivery(raw) for raw in script("claim_webhooks").run(connection, count, hold_seconds)]


def delivered(connection: redis.Redis, delivery: Delivery) -> bool:
    """Write that nothing more is to be done; False where the job has ended anew since, or others were faster."""
    return bool(script("answer_webhook").run(connection, delivery.job_id, delivery.ended_at, ""))


def failed(connection: redis.Redis, delivery: Delivery, delay_seconds: float | None) -> bool:
    """Write that it is to be tried again in so many seconds, None for never; False as `delivered`."""
    delay = "" if delay_seconds is None else delay_seconds
    return bool(script("answer_webhook").run(connection, delivery.job_id, delivery.ended_at, delay))


def next_due(connection: redis.Redis) -> float | None:
    """Seconds until the next delivery is due, 0 where one is; None where there is none."""
    with connection.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.zrange(keys.WEBHOOKS, 0, 0, withscores=True)
        (seconds, microseconds), entries = pipe.execute()
    return max(0.0, entries[0][1] - seconds - microseconds / 1e6) if entries else None


def _delivery(raw: Sequence[bytes]) -> Delivery:
    job_id, *flat = (part.decode("utf-8", "replace") for part in raw)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Delivery(
        job_id=job_id,
        url=fields["url"],
        owner=fields["owner"],
        status=JobStatus(fields["status"]),
        reason=fields["reason"],
        ended_at=fields["ended_at"],
        attempts=int(fields["attempts"]),
        traceparent=fields["traceparent"] or None,
    )
