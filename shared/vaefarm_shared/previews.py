"""Previews: a quick picture of latents whose full picture comes later.

A preview is a job of its own under its job's id and '--preview', with another VAE: one that takes the same latents and
is quick. No caller's id holds '--', so an id tells what is one; to a worker it is a decode like any other, whichever
release it is of. It is not retried, leaves no tombstone and no failure, and goes with its job (`lua/previews.lua`).

A job may be submitted with one, or previews may come before their job: the latents of each step of its generation. Of
those the newest waits, in the place of the one before; one that a worker has is left to it.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import redis

from . import keys, rq_bridge
from .budget import Limits, full, quota_exceeded
from .errors import FarmError
from .job import ADMIN, TERMINAL_STATUSES, JobStatus
from .job_ids import JOB_ID_PATTERN
from .reading import not_found
from .records import DecodeReport, Tombstone
from .scripts import script
from .submissions import Submission

#: What a preview's id has behind its job's.
SUFFIX: Final[str] = "--preview"

#: Characters of the longest id of a job that may have a preview.
MAX_JOB_ID: Final[int] = 100 - len(SUFFIX)

#: Seconds that the preview of a step lives, whatever becomes of its generation: an hour.
STEP_SECONDS: Final[int] = 3600

#: What becomes of a preview that is put: it waits now; it was put before; a worker has an earlier one, so that it
#: does not wait; or the job has ended, and takes no more.
Put = Literal["queued", "same", "busy", "ended"]


def preview_id(job_id: str) -> str:
    """The id of a job's preview."""
    return f"{job_id}{SUFFIX}"


def is_preview(job_id: str) -> bool:
    """Whether an id is a preview's."""
    return job_id.endswith(SUFFIX) and JOB_ID_PATTERN.fullmatch(job_id) is not None


@dataclass(frozen=True, slots=True)
class Preview:
    """How a job's preview stands."""

    owner: str
    #: The job's; None where it was not submitted yet.
    status: JobStatus | None
    #: How the newest that was made was made; None where there is none, or the job has ended.
    report: DecodeReport | None
    #: Whether one waits, or a worker has it.
    is_awaited: bool

    @property
    def is_over(self) -> bool:
        """Whether the job has ended: there will be none any more."""
        return self.status in TERMINAL_STATUSES


def read_preview(connection: redis.Redis, job_id: str) -> Preview:
    """How a job's preview stands, in one round trip. Raises JobNotFound where neither is known."""
    with connection.pipeline(transaction=False) as pipe:
        pipe.hmget(keys.job(job_id), "status", "owner")
        pipe.get(keys.tombstone(job_id))
        pipe.hmget(keys.job(preview_id(job_id)), "status", "owner", "report")
        (status, owner), stone, (state, made_by, report) = pipe.execute()
    if status is None and state is None and stone is None:
        raise not_found(job_id)
    if status is None and state is None:
        return Preview(Tombstone.model_validate_json(stone).owner, JobStatus.EXPIRED, None, False)
    whose = _owner(owner if status is not None else made_by)
    known = None if status is None else JobStatus(status.decode())
    if state is None or known in TERMINAL_STATUSES or _owner(made_by) != whose:
        # What another put under this id before is none of this job's.
        return Preview(whose, known, None, False)
    made = None if report is None else DecodeReport.model_validate_json(report)
    return Preview(whose, known, made, state in (b"queued", b"started"))


def _owner(raw: bytes | None) -> str:
    return ADMIN if raw is None else raw.decode("utf-8", "replace")


def put_preview(
    connection: redis.Redis, preview: Submission, limits: Limits, quota: int | None = None
) -> tuple[Put, str]:
    """Queue a preview of a job that has not ended, or is yet to come; one that waits is replaced where it stands.

    Args:
        quota: As `transitions.submit` has it.

    Returns:
        What became of it, and the reference of the latent that was replaced, '' where there was none.

    Raises:
        JobNotFound: the job is another owner's.
        QueueFull, QuotaExceeded: nothing was changed.
    """
    spec = preview.spec
    verdict, *more = script("put_preview").run(
        connection,
        *(spec.id, spec.request_hash, spec.to_json(), preview.queue, preview.latent_reference, preview.held_bytes),
        *(spec.pixels, spec.result_seconds, limits.max_bytes, limits.max_jobs, rq_bridge.encoded_call()),
        *(rq_bridge.date(), "" if spec.owner == ADMIN else spec.owner, "" if quota is None else quota),
        preview.latent_bytes,
    )
    refused = _refusal(connection, preview, limits, verdict, more)
    if refused is not None:
        raise refused
    return cast("Put", verdict.decode()), more[0].decode() if verdict == b"queued" else ""


def _refusal(
    connection: redis.Redis, preview: Submission, limits: Limits, verdict: bytes, more: list[Any]
) -> FarmError | None:
    if verdict == b"foreign":
        return not_found(preview.spec.id.removesuffix(SUFFIX))
    if verdict == b"quota":
        return quota_exceeded(connection, preview.spec.owner, int(more[0]))
    if verdict == b"full":
        return full(connection, limits, more[0].decode(), int(more[1]))
    return None


def drop_preview(connection: redis.Redis, job_id: str, owner: str = ADMIN) -> bool:
    """Remove a job's preview, whatever became of it; False where there is none of that owner's."""
    whose = "" if owner == ADMIN else owner
    return bool(script("drop_preview").run(connection, preview_id(job_id), whose))
