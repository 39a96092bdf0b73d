"""Reading an overview from Redis: two round trips, however many jobs wait, have failed or are in hand."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final

import redis
from rq.worker_registration import REDIS_WORKER_KEYS

from . import keys, quarantine, rq_bridge
from .budget import limits_of
from .failures import vae_of
from .job import ADMIN, JobStatus
from .leases import number
from .overview import Death, Overview, Quarantined, RecentFailure, Totals, VaeOverview, WorkerOverview, worker_overview
from .overview_warnings import with_warnings
from .pace import Backlog, backlog, paces
from .queues import PRIORITIES, parts_of
from .told import count_of, text_of, without_kinds
from .workers import description_keys, read_description

#: Newest failures that are looked at, as many as Redis keeps the ids of; and how many are shown at most.
LOOKED_AT: Final[int] = 100
SHOWN: Final[int] = 20

#: Seconds for which a worker's death is shown.
DEATH_SHOWN_SECONDS: Final[float] = 600.0

#: Characters of a reason that are shown.
REASON_LENGTH: Final[int] = 500


def read_overview(
    connection: redis.Redis, budget_bytes: int | None, max_jobs: int, most_failures: int = SHOWN
) -> Overview:
    """How the farm stands now.

    Args:
        budget_bytes: Most bytes of latents and pictures in Redis; None for the part of its maxmemory that is the
            default.
        max_jobs: Most jobs that have not ended.
        most_failures: Of the newest hundred.

    Raises:
        redis.RedisError: as redis-py does.
    """
    first = _read_first(connection)
    queues = sorted(
        name
        for name in (text_of(key).removeprefix(rq_bridge.QUEUE_PREFIX) for key in first["queues"])
        if name.startswith("vaefarm.")
    )
    failed = [text_of(job_id) for job_id in reversed(first["failures"])]
    depths, workers, records = _read_second(connection, queues, first["workers"], failed)
    paused = {text_of(vae) for vae in first["paused"]}
    pace = paces(first["pace"])
    vaes = vae_overviews(list(zip(queues, depths, strict=True)), pace, first["ended"], paused, workers)
    now = first["time"][0] + first["time"][1] / 1e6
    overview = Overview(
        taken_at=now,
        totals=_totals(vaes, workers, first, budget_bytes, max_jobs),
        vaes=vaes,
        workers=workers,
        failures=_failures(failed, records)[:most_failures],
        quarantined=[quarantined(text_of(device), raw) for device, raw in sorted(first["quarantined"].items())],
        deaths=[
            Death(worker=text_of(name), at=at)
            for name, at in reversed(first["deaths"])
            # One of a time to come would stay for as long.
            if abs(now - at) < DEATH_SHOWN_SECONDS
        ],
        suspended=bool(first["suspended"]),
    )
    return with_warnings(overview)


def quarantined(device_id: str, raw: bytes) -> Quarantined:
    """A device as it is entered."""
    reason, since = quarantine.read_entry(raw)
    return Quarantined(id=device_id, reason=reason, since=since)


def sum_up(workers: Sequence[WorkerOverview]) -> dict[str, Any]:
    """What workers did in their last seconds, together; None while no one tells."""
    pictures = [one.images_per_second for one in workers if one.images_per_second is not None]
    shares = [one.busy_share for one in workers if one.busy_share is not None]
    return {
        "workers": len(workers),
        "images_per_second": round(sum(pictures), 4) if pictures else None,
        "busy_share": round(fmean(shares), 4) if shares else None,
    }


def _read_first(connection: redis.Redis) -> dict[str, Any]:
    """What can be asked before anything is known."""
    with connection.pipeline(transaction=False) as pipe:
        asked: dict[str, Callable[[], Any]] = {
            "time": pipe.time,
            "queues": lambda: pipe.smembers(rq_bridge.QUEUES_KEY),
            "workers": lambda: pipe.smembers(REDIS_WORKER_KEYS),
            "paused": lambda: pipe.smembers(keys.PAUSED),
            "pace": lambda: pipe.hgetall(keys.PACE),
            "ended": lambda: pipe.hgetall(keys.ENDED),
            "budget": lambda: pipe.hmget(keys.BUDGET, "bytes", "jobs"),
            "in_hand": lambda: pipe.zcard(keys.LEASES),
            "failures": lambda: pipe.zrange(keys.FAILURES, -LOOKED_AT, -1),
            "quarantined": lambda: pipe.hgetall(quarantine.QUARANTINE),
            "deaths": lambda: pipe.zrange(keys.DEATHS, 0, -1, withscores=True),
            "suspended": lambda: pipe.exists(rq_bridge.SUSPENDED_KEY),
            "memory": lambda: pipe.info("memory"),
        }
        for ask in asked.values():
            ask()
        found = dict(zip(asked, pipe.execute(raise_on_error=False), strict=True))
    if isinstance(found["memory"], redis.exceptions.NoPermissionError):
        # An ACL, or a managed server, forbids it.
        found["memory"] = {}
    for reply in found.values():
        if isinstance(reply, Exception):
            raise reply
    return found


def _read_second(
    connection: redis.Redis, queues: Sequence[str], members: Iterable[bytes | str], failed: Sequence[str]
) -> tuple[list[int], list[WorkerOverview], list[list[bytes | None] | None]]:
    """Depths of queues, what workers say of themselves, records of failed jobs."""
    described = description_keys(members)
    with connection.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.llen(rq_bridge.queue_key(queue))
        for job_id in failed:
            pipe.hmget(keys.job(job_id), "status", "reason", "attempts", "ended_at", "owner", "queue")
        for key in described:
            pipe.get(key)
            pipe.pttl(key)
        replies = without_kinds(pipe.execute(raise_on_error=False))
    said = replies[len(queues) + len(failed) :]
    workers = [
        # What lives and cannot be read is told of by its name.
        worker_overview(read_description(raw) or {"name": key.rpartition(":")[2]}, silent_seconds(left_milliseconds))
        for key, raw, left_milliseconds in zip(described, said[::2], said[1::2], strict=True)
        if raw is not None
    ]
    return [depth or 0 for depth in replies[: len(queues)]], workers, replies[len(queues) : len(queues) + len(failed)]


def silent_seconds(left_milliseconds: int) -> float | None:
    """How old a description is that lives for so much longer; None for one without an end, or that is just gone."""
    if left_milliseconds < 0:
        return None
    return round(max(keys.WORKER_SECONDS - left_milliseconds / 1000, 0.0), 1)


def vae_overviews(
    queues: Sequence[tuple[str, int]],
    pace: Mapping[tuple[str, str], float],
    ended: Mapping[bytes, bytes],
    paused: set[str],
    workers: Sequence[WorkerOverview],
) -> list[VaeOverview]:
    """Each VAE that has queues, that a worker serves, or that is paused."""
    waits = backlog(queues, pace)
    priorities: dict[str, Counter[str]] = {}
    sizes: dict[str, Counter[str]] = {}
    for name, queued in queues:
        vae, priority, size, _ = parts_of(name)
        priorities.setdefault(vae, Counter(dict.fromkeys(PRIORITIES, 0)))[priority or "plain"] += queued
        if size:
            sizes.setdefault(vae, Counter())[size] += queued
    ends = {text_of(field): count_of(count) for field, count in ended.items()}
    serving = Counter(vae for worker in workers for vae in worker.serves)
    loaded = Counter(vae for worker in workers for vae in worker.hot if vae in worker.serves)
    found = []
    for vae in sorted({*waits, *paused, *(vae for worker in workers for vae in worker.vaes)}):
        waiting = waits.get(vae, Backlog(0, None))
        found.append(
            VaeOverview(
                id=vae,
                queued=waiting.queued,
                by_priority=priorities.get(vae, dict.fromkeys(PRIORITIES, 0)),
                by_size=sizes.get(vae, {}),
                backlog_seconds=round(waiting.estimate, 3),
                pace_known=any(known == vae for known, _ in pace),
                paused=vae in paused,
                workers=serving[vae],
                hot=loaded[vae],
                **{end: ends.get(f"{vae}:{end}", 0) for end in ("finished", "failed", "canceled", "expired")},
            )
        )
    return found


def _totals(
    vaes: Sequence[VaeOverview],
    workers: Sequence[WorkerOverview],
    first: Mapping[str, Any],
    budget_bytes: int | None,
    max_jobs: int,
) -> Totals:
    memory = first["memory"]
    most = int(memory.get("maxmemory", 0))
    limits = limits_of(most, budget_bytes, max_jobs)
    used_bytes, used_jobs = (count_of(one) for one in first["budget"])
    return Totals(
        queued=sum(vae.queued for vae in vaes),
        backlog_seconds=round(sum(vae.backlog_seconds for vae in vaes), 3),
        in_hand=first["in_hand"],
        budget_jobs=used_jobs,
        budget_jobs_limit=limits.max_jobs,
        budget_bytes=used_bytes,
        budget_bytes_limit=limits.max_bytes,
        redis_bytes=memory.get("used_memory"),
        redis_bytes_limit=most if memory else None,
        **sum_up(workers),
    )


def _failures(job_ids: Sequence[str], records: Sequence[Sequence[bytes | None] | None]) -> list[RecentFailure]:
    """Those that are failed still: one may have been retried, or be past its life."""
    found = []
    for job_id, fields in zip(job_ids, records, strict=True):
        status, reason, attempts, ended_at, owner, queue = fields or [None] * 6
        if status == JobStatus.FAILED.encode():
            found.append(
                RecentFailure(
                    id=job_id,
                    vae=vae_of(text_of(queue)) if queue and b"." in queue else "",
                    reason=text_of(reason or b"")[:REASON_LENGTH],
                    attempts=count_of(attempts),
                    owner=ADMIN if owner is None else text_of(owner),
                    ended_at=number(ended_at),
                )
            )
    return found
