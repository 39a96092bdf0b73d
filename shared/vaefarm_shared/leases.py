"""Leases: which worker holds which job, until when, and what becomes of the jobs of those that fell silent."""

import logging
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

import redis
from rq.utils import as_text

from . import keys, rq_bridge
from .connection import AWAY
from .errors import LeaseLost
from .fence import Claim, Held, seconds, text
from .job import JobStatus
from .queues import plain_queue_name
from .scripts import script
from .transitions import give_back, settle

logger = logging.getLogger(__name__)

#: Jobs whose leases one reap looks at.
REAP_LIMIT: Final[int] = 100


def claim(
    connection: redis.Redis, indexes: Sequence[str], vaes: Sequence[str], limit: int, lease_seconds: float
) -> list[Claim]:
    """Take up to `limit` jobs from the queues behind `indexes`, in that order, then from the plain queues of `vaes`.

    Should the reply be lost, the jobs come back when their leases end.
    """
    key_names = [keys.LEASES, rq_bridge.SUSPENDED_KEY, *indexes]
    stem = uuid4().hex[:16]
    prefixes = [keys.job(""), keys.lease(""), rq_bridge.QUEUE_PREFIX]
    reply = script("claim").run(
        connection, key_names, [limit, lease_seconds, stem, *prefixes, *map(plain_queue_name, vaes)]
    )
    claimed_at = float(reply[0])
    return [Claim(job_id.decode(), queue.decode(), token.decode(), claimed_at) for job_id, queue, token in reply[1:]]


def renew(connection: redis.Redis, job_ids: Sequence[str], lease_seconds: float) -> None:
    """Move the ends of leases that still stand; only the score changes, never the token."""
    if job_ids:
        end = seconds(connection.time()) + lease_seconds
        connection.zadd(keys.LEASES, dict.fromkeys(job_ids, end), xx=True)


def reap(connection: redis.Redis, max_attempts: int) -> list[str]:
    """Return the jobs whose leases have ended to the front of their queues; return their ids.

    A job that was being decoded each time, `max_attempts` times, has failed: it is what ends its workers.
    """
    now = seconds(connection.time())
    reaped = []
    for raw in connection.zrangebyscore(keys.LEASES, "-inf", now, start=0, num=REAP_LIMIT):
        job_id = as_text(raw)  # type: ignore[arg-type]
        token = connection.get(keys.lease(job_id))
        fields = text(connection.hgetall(keys.job(job_id)))
        if token is None or "queue" not in fields:
            connection.zrem(keys.LEASES, job_id)
            continue
        dead = Claim(job_id, fields["queue"], as_text(token), now)
        try:
            _reap_one(connection, dead, Held(now, fields), max_attempts)
        except LeaseLost:
            continue
        except AWAY:
            raise
        except Exception:
            # A record that somebody garbled keeps nobody else's job from coming back.
            logger.exception("job %s could not be returned", job_id)
            continue
        reaped.append(job_id)
    return reaped


def _reap_one(connection: redis.Redis, dead: Claim, held: Held, max_attempts: int) -> None:
    # A renewal that came between the look and now moved the score: the worker lives.
    score = connection.zscore(keys.LEASES, dead.job_id)
    if score is None or float(score) > held.now:
        raise LeaseLost(dead.job_id)
    worker_name = held.fields.get("worker", "")
    if held.status is JobStatus.STARTED and held.attempts >= max_attempts:
        reason = f"{held.attempts} workers went silent while they decoded it; the last was {worker_name}"
        settle(connection, dead, JobStatus.FAILED, worker_name=worker_name, reason=reason)
        logger.warning("job %s failed: %s", dead.job_id, reason)
    else:
        give_back(connection, dead, worker_name)
        logger.warning("job %s returned to %s: its worker %s went silent", dead.job_id, dead.queue, worker_name)
