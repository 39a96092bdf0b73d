"""One spooled job as a file: a line of JSON that holds its spec and a digest, then its latents' safetensors bytes."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from uuid import uuid4

from vaefarm_shared.checks import MAX_LATENT_BYTES
from vaefarm_shared.errors import FarmError
from vaefarm_shared.job import JobSpec

from .submission import PreparedJob

#: The version of file that this code writes, and the only one it reads.
VERSION: Final[int] = 1

#: Bytes that the first line may have: a spec whose metadata are all escapes stays below.
MAX_HEADER_BYTES: Final[int] = 1024 * 1024

#: Bytes above which a file cannot be one of ours.
MAX_FILE_BYTES: Final[int] = MAX_LATENT_BYTES + 2 * MAX_HEADER_BYTES


class UnreadableJob(FarmError):
    """A file that is torn, or that no spool wrote."""


@dataclass(frozen=True, slots=True)
class SpooledJob:
    """A job as its file holds it."""

    job: PreparedJob
    #: When it was spooled, Unix seconds by this machine's clock.
    spooled_at: float


@dataclass(frozen=True, slots=True)
class Header:
    """A file's first line."""

    spec: JobSpec
    #: The spec's text as it was written, which a newer version may write otherwise.
    text: str
    digest: str


def write(path: Path, job: PreparedJob, time_ns: int) -> None:
    """Write a file with that time so that it is whole or absent, and its bytes on disk. Raises OSError."""
    text = job.spec.to_json()
    header = json.dumps({"vaefarm_spool": VERSION, "digest": _digest(text, job.packed), "spec": text})
    part = path.with_name(f".{uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            file.write(header.encode() + b"\n")
            file.write(job.packed)
            file.flush()
            os.utime(file.fileno(), ns=(time_ns, time_ns))
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read(path: Path) -> SpooledJob:
    """Read a job.

    Raises:
        OSError: the file is gone, or cannot be read.
        UnreadableJob: it is torn, or no spool wrote it.
    """
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        if stat.st_size > MAX_FILE_BYTES:
            raise UnreadableJob(f"it has {stat.st_size} bytes; a spooled job has at most {MAX_FILE_BYTES}")
        header = _read_header(file, path.stem)
        packed = file.read()
    if header.digest != _digest(header.text, packed):
        raise UnreadableJob("it is torn: its bytes are not those that were written")
    return SpooledJob(PreparedJob(header.spec, packed), stat.st_mtime)


def read_spec(path: Path) -> JobSpec:
    """What a job asks for, without its latents. Raises as `read`."""
    with path.open("rb") as file:
        return _read_header(file, path.stem).spec


def _read_header(file: IO[bytes], job_id: str) -> Header:
    try:
        fields: dict[str, Any] = json.loads(file.readline(MAX_HEADER_BYTES))
        if fields["vaefarm_spool"] != VERSION:
            raise UnreadableJob(f"it is of version {fields['vaefarm_spool']!r}; expected {VERSION}")
        header = Header(JobSpec.from_json(fields["spec"]), str(fields["spec"]), str(fields["digest"]))
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadableJob("it is torn, or no spool wrote it: its first line is no spooled job's") from error
    except UnreadableJob:
        raise
    except FarmError as error:
        raise UnreadableJob(str(error)) from error
    if header.spec.id != job_id:
        raise UnreadableJob(f"it holds job {header.spec.id!r}: somebody renamed it")
    return header


def _digest(text: str, packed: bytes) -> str:
    digest = hashlib.sha256(text.encode())
    digest.update(packed)
    return digest.hexdigest()
