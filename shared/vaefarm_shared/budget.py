"""The budget: how much of Redis latents and pictures may take, and what a job is reckoned to hold.

Submit counts a job's latent and reserves room for its pictures in the same step (`lua/submit.lua`), so that a settle
finds it; the settle puts what was stored in place of what was reserved. Blobs outside of Redis do not count.
"""

from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from math import ceil, prod
from typing import Final

import redis

from . import keys
from .blobs import BlobStore
from .errors import InvalidInput, QueueFull, QuotaExceeded
from .inflight import OwnerCount
from .job import JobSpec, metadata_characters
from .scripts import script
from .submissions import Submission
from .workers import read_workers

#: Share of Redis' maxmemory that the farm takes; the rest is for records, clients' buffers and others.
MAXMEMORY_SHARE: Final[float] = 0.6

#: Bytes where Redis has no maxmemory: 2 GiB.
DEFAULT_BYTES: Final[int] = 2 * 1024**3

#: Bytes for each pixel and channel of colour at which a picture's file ends, whatever it shows: the channel, and a
#: little for noise that a codec makes larger. Lossy files of quality 95 or less stay below half of it.
LOSSLESS_BYTES: Final[float] = 3.05 / 3
LOSSY_BYTES: Final[float] = 1.6 / 3
LOSSY_QUALITY: Final[int] = 95

#: Bytes for each pixel of an MP4, whose encoder is held to them.
MP4_BYTES: Final[float] = 0.75

#: Bytes of a file that no pixel accounts for.
FILE_BYTES: Final[int] = 4096

#: Bytes of a file for its metadata, where there are any: what stands around them, and for each character as many as the
#: worst takes in each form that it is written in.
METADATA_BYTES, CHARACTER_BYTES = 2048, 40

#: Seconds between which a refused submit is told to wait.
SHORTEST_WAIT, LONGEST_WAIT = 0.5, 60.0

#: Share of the jobs in the farm that should have ended before the next try.
ENDED_SHARE: Final[float] = 0.05

#: Seconds for which nobody else repairs.
REPAIR_SECONDS: Final[int] = 250

#: Records that a repair reads in one round trip.
SCAN_KEYS: Final[int] = 500

#: Bytes below which the counter is left alone: what a busy farm moves while it is counted.
DRIFT_BYTES: Final[int] = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a farm holds at most."""

    max_bytes: int = DEFAULT_BYTES
    max_jobs: int = 1_000_000


def read_limits(connection: redis.Redis, budget_bytes: int | None, max_jobs: int) -> Limits:
    """The limits that apply: `budget_bytes`, else 60 % of Redis' maxmemory, else (or where it does not tell) 2 GiB."""
    maxmemory = 0
    if budget_bytes is None:
        with suppress(redis.exceptions.NoPermissionError):
            maxmemory = int(connection.info("memory").get("maxmemory", 0))
    return limits_of(maxmemory, budget_bytes, max_jobs)


def limits_of(maxmemory: int, budget_bytes: int | None, max_jobs: int) -> Limits:
    """The same with a maxmemory that is known; 0 where there is none, or Redis does not tell."""
    return Limits(budget_bytes or int(maxmemory * MAXMEMORY_SHARE) or DEFAULT_BYTES, max_jobs)


def picture_bytes(spec: JobSpec) -> int:
    """The most bytes that a job's pictures take, its raw tensor, or the latents of an encode, with its metadata."""
    metadata = 0
    if spec.embeds_metadata:
        metadata = METADATA_BYTES + CHARACTER_BYTES * metadata_characters(spec.metadata)
    if spec.task == "encode":
        # In the widest dtype: which one it will be the worker decides.
        return prod(spec.shape) * 4 + FILE_BYTES + metadata
    if spec.output_type == "pt":
        return spec.tensor_bytes + FILE_BYTES + metadata
    if spec.num_frames is not None and spec.video_format == "mp4":
        return ceil(spec.pixels * MP4_BYTES) + spec.count * (FILE_BYTES + metadata)
    is_webp = spec.num_frames is not None and spec.video_format == "webp"
    lossy = (is_webp or spec.image_format != "png") and not spec.lossless and (spec.quality or 0) <= LOSSY_QUALITY
    height, width = spec.picture_size
    pictures = spec.count * (spec.num_frames or 1)
    values = pictures * height * width * spec.picture_channels
    return ceil(values * (LOSSY_BYTES if lossy else LOSSLESS_BYTES)) + pictures * (FILE_BYTES + metadata)


def held_bytes(spec: JobSpec, latent_bytes: int, blobs: BlobStore) -> int:
    """Bytes of Redis that a job holds until it ends: its latent, and room for its pictures, where they go there."""
    latent = 0 if blobs.goes_outside(latent_bytes) else latent_bytes
    pictures = picture_bytes(spec)
    files = 1 if spec.task == "encode" or spec.output_type == "pt" else spec.count
    return latent + (pictures if blobs.outside is None else min(pictures, files * blobs.threshold))


def full(connection: redis.Redis, limits: Limits, what: str, used: int) -> QueueFull:
    """The error for a submit that the budget refuses, with a wait in which the farm should have made some room."""
    seconds = suggested_wait(connection)
    limit = limits.max_jobs if what == "jobs" else limits.max_bytes
    of_what = "jobs" if what == "jobs" else "bytes of Redis for latents and pictures"
    return QueueFull(
        f"the farm is full: it holds {used} of at most {limit} {of_what}; try again in {seconds:.1f} seconds, submit"
        " with block=True, or raise the limit (VAEFARM_BUDGET_BYTES, VAEFARM_MAX_QUEUED_JOBS)",
        seconds,
    )


def too_large(job: Submission, limits: Limits) -> InvalidInput | None:
    """The error for a job that holds more than the farm ever may, for which no wait makes room; None for another."""
    held = job.held_bytes + (0 if job.preview is None else job.preview.held_bytes)
    if held <= limits.max_bytes:
        return None
    return InvalidInput(
        f"the job holds {held} bytes of Redis until it ends, its latents and room for its result, and the farm at most"
        f" {limits.max_bytes} in all: submit fewer latents in one job or a smaller format, raise VAEFARM_BUDGET_BYTES,"
        " or have the farm store such outside of Redis (VAEFARM_STORE=file:///DIR, or s3://BUCKET/PREFIX)"
    )


def quota_exceeded(connection: redis.Redis, owner: str, inflight: int) -> QuotaExceeded:
    """The error for a submit of an owner that has as many jobs as it may have."""
    seconds = suggested_wait(connection)
    return QuotaExceeded(
        f"{owner!r} has {inflight} jobs that have not ended, as many as it may have; try again in {seconds:.1f} seconds"
        " or when one has ended, or raise its quota",
        seconds,
    )


def suggested_wait(connection: redis.Redis) -> float:
    """Seconds after which a twentieth of the farm's jobs should have ended, by the rate that its workers tell."""
    jobs = int(connection.hget(keys.BUDGET, "jobs") or 0)
    rate = sum(float(one.get("jobs_per_second", 0.0)) for one in read_workers(connection))
    if rate <= 0:
        return LONGEST_WAIT / 10
    return min(max(jobs * ENDED_SHARE / rate, SHORTEST_WAIT), LONGEST_WAIT)


def repair(connection: redis.Redis) -> int:
    """Put the counters right where they drifted from what the records hold; return by how many bytes. One at a time.

    Every transition counts in the step that it takes, so only an outsider's hand, or a key that Redis evicted, makes it
    drift. A walk through the records takes a while: only what lies outside of all that was counted meanwhile is drift.
    """
    if not connection.set(keys.REPAIRING, "", nx=True, ex=REPAIR_SECONDS):
        return 0
    owners = OwnerCount(connection)
    total, low, high = 0, _counted(connection), _counted(connection)
    records = connection.scan_iter(match=keys.job("*"), count=SCAN_KEYS)
    while page := list(islice(records, SCAN_KEYS)):
        with connection.pipeline(transaction=False) as pipe:
            for key in page:
                pipe.hmget(key, "held", "status", "owner")
            # A key that is no hash is nobody's record.
            read = {key: found for key, found in zip(page, pipe.execute(raise_on_error=False), strict=True)}
        records_read = {key: found for key, found in read.items() if isinstance(found, list)}
        total += sum(int(held) for held, _, _ in records_read.values() if _is_number(held))
        owners.add({key: (status, owner) for key, (_, status, owner) in records_read.items()})
        now = _counted(connection)
        low, high = min(low, now), max(high, now)
    owners.correct()
    drift = low - total if total < low else min(0, high - total)
    if abs(drift) > DRIFT_BYTES and script("repair").run(connection, _counted(connection), -drift):
        return drift
    return 0


def _counted(connection: redis.Redis) -> int:
    return int(connection.hget(keys.BUDGET, "bytes") or 0)


def _is_number(held: object) -> bool:
    return isinstance(held, bytes) and held.isdigit()
