"""Job ids: what can be one, and one that nobody else has."""

import os
import re
from typing import Final

from .errors import InvalidJobId

#: Characters of a job id: RQ's own, so that the id can be part of keys and file names.
JOB_ID_PATTERN: Final[re.Pattern[str]] = re.compile(r"[A-Za-z0-9_-]{1,100}")


def new_job_id() -> str:
    """Draw a job id that nobody else has."""
    return os.urandom(16).hex()


def check_job_id(job_id: str) -> str:
    """Give back `job_id` if it can be one.

    Raises:
        InvalidJobId: other characters than letters, digits, '_' and '-', '--', or more than 100 of them.
    """
    if not isinstance(job_id, str) or not JOB_ID_PATTERN.fullmatch(job_id) or "--" in job_id:
        raise InvalidJobId(f"job id {job_id!r} is not allowed; expected 1 to 100 letters, digits, '_' and single '-'")
    return job_id
