"""Names of blobs: what they are of, and that they lead nowhere else."""

import re
from typing import Final

from .errors import FarmError

#: Kind, job id, then what tells attempts apart.
NAME_PATTERN: Final[re.Pattern[str]] = re.compile(r"(latent|image):[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")


def latent_name(job_id: str, request_hash: str, submit: str = "") -> str:
    """The name of a job's latent; other content under the same id has another name.

    `submit`: what no other submit has, for a latent outside of Redis: whoever deletes it late, as the store was away,
    deletes nothing of a job that was submitted anew meanwhile.
    """
    return f"latent:{job_id}.{request_hash}" + (f".{submit}" if submit else "")


def image_name(job_id: str, token: str, index: int) -> str:
    """The name of a job's picture; each lease has names of its own, so a late worker overwrites nothing."""
    return f"image:{job_id}.{token}.{index}"


def job_of(name: str) -> str:
    """The job id inside a blob's name."""
    return name.partition(":")[2].partition(".")[0]


def token_of(reference: str) -> str | None:
    """The lease's token inside the reference of a picture; None of a latent."""
    scheme_and_kind, _, parts = reference.rpartition(":")
    return parts.split(".")[1] if scheme_and_kind.endswith(":image") else None


def check_name(name: str) -> None:
    """Raise FarmError for a name that could lead out of the store."""
    if not NAME_PATTERN.fullmatch(name):
        raise FarmError(f"{name!r} is no blob name")


def check_size(name: str, size: int, max_bytes: int) -> None:
    """Raise FarmError when a blob is larger than its job allows."""
    if size > max_bytes:
        raise FarmError(f"blob {name} has {size} bytes; its job allows {max_bytes}")
