"""Which of a worker's jobs go to endpoints while it has a device of its own: pure policy, without Redis or network."""

from enum import StrEnum
from math import ceil, inf
from typing import Final

#: Part of an endpoint's requests for which jobs are claimed ahead, so that no slot waits for a claim.
AHEAD_SHARE: Final[float] = 0.25


class Side(StrEnum):
    """Who may decode a job."""

    DEVICE = "device"
    ENDPOINT = "endpoint"
    EITHER = "either"


def overflow(backlog_seconds: float, job_seconds: float, remote_seconds: float | None, free_slots: int) -> int:
    """How many jobs to forward now, beside what the device decodes.

    The device goes first. A job goes to an endpoint when that should have its picture before the device could, that is
    while what waits for the device takes longer than the endpoint; each job that goes shortens what waits.

    Args:
        backlog_seconds: What waits for the device takes so long; infinite where it cannot decode the VAE now.
        job_seconds: What one job takes the device; 0 while unknown.
        remote_seconds: What an endpoint should take for one; None where none can be asked.
        free_slots: Requests that endpoints take besides those in flight.
    """
    if remote_seconds is None or free_slots < 1:
        return 0
    if backlog_seconds == inf:
        return free_slots
    excess = backlog_seconds - remote_seconds
    if excess <= 0 or job_seconds <= 0:
        return 0
    return min(free_slots, ceil(excess / job_seconds))


def ahead(slots: int) -> int:
    """How many jobs may wait for endpoints that take so many requests, where no device could take them meanwhile."""
    return max(1, int(slots * AHEAD_SHARE)) if slots else 0
