"""The spool: a folder in which submitted jobs wait while Redis is away, one file each, on disk before `submit` returns.

| name           | is                                                                               |
| -------------- | -------------------------------------------------------------------------------- |
| {id}.job       | a job on its way: a line of JSON, then its latents' safetensors bytes             |
| {id}.canceled  | one that was canceled on its way: the farm is told, in case it got the job before |
| {id}.refused   | one that the farm refuses, or that cannot be read: kept for its owner             |
| {id}.reason    | why                                                                              |
| .{uuid}.part   | one that is being written; a leftover of a writer that died was never promised   |
| .lock          | held by the one process that sends                                               |

Order is that of the files' times, which a writer makes ascend. Nothing in it is ever unpickled.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final
from weakref import WeakSet

from vaefarm_shared.errors import ConfigurationError, FarmUnavailable, JobConflict
from vaefarm_shared.job import JobSpec
from vaefarm_shared.job_ids import JOB_ID_PATTERN

from . import spool_file
from .spool_file import SpooledJob, UnreadableJob
from .submission import PreparedJob

#: Seconds after which a file that is still being written belongs to a writer that died.
PART_SECONDS: Final[float] = 3600.0

#: Name endings of what the folder holds.
JOB, CANCELED, REFUSED, REASON = ".job", ".canceled", ".refused", ".reason"

_open_locks: "WeakSet[IO[bytes]]" = WeakSet()


def _close_locks() -> None:
    """A forked child holds its parent's lock open, which would outlive the parent's hold on it."""
    for file in list(_open_locks):
        file.close()


os.register_at_fork(after_in_child=_close_locks)


class Spool:
    """The folder. Any number of processes may use it at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigurationError where it cannot be made or written."""
        self.folder = folder.expanduser()
        self._last_time_ns = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ".lock").touch()
        except OSError as error:
            raise ConfigurationError(
                f"spool {self.folder}: {error.strerror}; expected a folder that can be written"
            ) from error

    def put(self, jobs: Sequence[PreparedJob]) -> None:
        """Write jobs; all are on disk when this returns.

        Raises:
            FarmUnavailable: the disk is full, or does not take them otherwise; says how many it took.
        """
        for place, job in enumerate(jobs):
            # Where two are spooled within one tick of the clock, the second is the later one all the same.
            self._last_time_ns = max(time.time_ns(), self._last_time_ns + 1000)
            try:
                spool_file.write(self._path(job.spec.id, JOB), job, self._last_time_ns)
            except OSError as error:
                self._sync()
                raise FarmUnavailable(
                    f"Redis is away, and the spool {self.folder} took {place} of {len(jobs)} jobs: {error.strerror};"
                    " make room there, then submit again"
                ) from error
        self._sync()

    def check_conflict(self, spec: JobSpec) -> None:
        """Raise JobConflict where a job of that id and other content is spooled."""
        held = self.spec(spec.id)
        if held is not None and held.request_hash != spec.request_hash:
            raise JobConflict(
                f"job id {spec.id!r} was used for other latents or options (spooled);"
                " take another id, or cancel that job"
            )

    def holds(self, job_id: str) -> bool:
        """Whether a job is on its way."""
        return self._path(job_id, JOB).exists()

    def spec(self, job_id: str) -> JobSpec | None:
        """What a job on its way asks for; None where there is none, or its file cannot be read."""
        try:
            return spool_file.read_spec(self._path(job_id, JOB))
        except (OSError, UnreadableJob):
            return None

    def read(self, job_id: str) -> SpooledJob:
        """A job on its way. Raises FileNotFoundError, and UnreadableJob where its file is torn or no spool wrote it."""
        return spool_file.read(self._path(job_id, JOB))

    def waiting(self) -> list[str]:
        """The ids of the jobs on their way, in the order in which they were spooled."""
        times: dict[str, int] = {}
        for path in self.folder.glob(f"*{JOB}"):
            if JOB_ID_PATTERN.fullmatch(path.stem):
                with suppress(FileNotFoundError):
                    times[path.stem] = path.stat().st_mtime_ns
        return sorted(times, key=lambda job_id: times[job_id])

    def foreign(self) -> list[str]:
        """Names of what lies here and is not the spool's; leftovers of writers that died are removed."""
        names = []
        for path in self.folder.iterdir():
            if path.suffix == ".part" and path.name.startswith("."):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < time.time() - PART_SECONDS:
                        path.unlink()
            elif path.name != ".lock" and not (
                path.suffix in (JOB, CANCELED, REFUSED, REASON) and JOB_ID_PATTERN.fullmatch(path.stem)
            ):
                names.append(path.name)
        return sorted(names)

    def remove(self, job_id: str) -> None:
        """Drop a job that the farm has taken. Should the machine die now, it is sent again, which is harmless."""
        self._path(job_id, JOB).unlink(missing_ok=True)

    def cancel(self, job_id: str) -> bool:
        """Take a job off its way; False where it is not on it."""
        try:
            self._path(job_id, JOB).replace(self._path(job_id, CANCELED))
        except FileNotFoundError:
            return False
        self._sync()
        return True

    def is_canceled(self, job_id: str) -> bool:
        """Whether a job was canceled on its way, and the farm does not know yet."""
        return self._path(job_id, CANCELED).exists()

    def canceled(self) -> list[str]:
        """The ids of the jobs whose cancel the farm does not know yet."""
        return [path.stem for path in self.folder.glob(f"*{CANCELED}") if JOB_ID_PATTERN.fullmatch(path.stem)]

    def forget_cancel(self, job_id: str) -> None:
        """Drop a cancel that the farm knows of, or that a new submit of the same id overtakes."""
        self._path(job_id, CANCELED).unlink(missing_ok=True)

    def set_aside(self, job_id: str, reason: str) -> None:
        """Keep a job that cannot be sent under another name, beside the reason."""
        self._path(job_id, REASON).write_text(reason)
        with suppress(FileNotFoundError):
            self._path(job_id, JOB).replace(self._path(job_id, REFUSED))

    def refusal(self, job_id: str) -> str | None:
        """Why a job was set aside, or None where it was not."""
        try:
            return self._path(job_id, REASON).read_text()
        except OSError:
            return None

    def forget_refusal(self, job_id: str) -> None:
        """Answer for a refused job no longer; its latents stay."""
        self._path(job_id, REASON).unlink(missing_ok=True)

    @contextmanager
    def sending(self) -> Iterator[bool]:
        """Whether this block is the one that sends; no other is, in any process, as long as it runs."""
        with (self.folder / ".lock").open("ab") as file:
            _open_locks.add(file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _path(self, job_id: str, ending: str) -> Path:
        return self.folder / f"{job_id}{ending}"

    def _sync(self) -> None:
        """Bring the folder's names to disk."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
