"""The oracle: what each job must become, every end that is told, and what must not be left in Redis."""

import io
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from PIL import Image

from vaefarm_producer import Farm, Job
from vaefarm_producer.submission import PreparedJob
from vaefarm_shared import keys, rq_bridge
from vaefarm_shared.connection import AWAY, connect
from vaefarm_shared.errors import JobFailed
from vaefarm_shared.job import JOB_VERSION, TERMINAL_STATUSES, JobStatus
from vaefarm_shared.latents import unpack
from vaefarm_shared.reading import read_statuses
from vaefarm_worker.decoder import BatchItem
from vaefarm_worker.fake_decoder import stripes

from .decoder import VAE, Poison, latents

#: Keys of which none may be left once every job has ended.
TRACES: Final[tuple[str, ...]] = (
    keys.LEASES,
    keys.lease("*"),
    f"{rq_bridge.KEY_PREFIX}:wip:*",
    f"{rq_bridge.KEY_PREFIX}:execution*",
    f"{rq_bridge.KEY_PREFIX}:worker:*:executions",
    f"{rq_bridge.QUEUE_PREFIX}*:intermediate",
)

#: Seconds after the last job's end in which its workers must have tidied up.
TIDY_SECONDS: Final[float] = 10.0

#: Jobs whose status one round trip asks for.
STATUSES: Final[int] = 500


@dataclass(frozen=True)
class Order:
    """An acknowledged job and how it must end: with its picture, or failed for a reason."""

    prepared: PreparedJob
    reason: str | None
    ends: tuple[JobStatus, ...]

    @property
    def pictures(self) -> np.ndarray[Any, Any]:
        """(count, height, width, 3) uint8: what the decoder makes of the latents."""
        return stripes(BatchItem(self.prepared.spec, unpack(self.prepared.packed)))


@dataclass
class Verdict:
    """What was found; all lists are empty when every promise was kept."""

    jobs: int
    lost: list[str] = field(default_factory=list)
    published_twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)


class Oracle:
    """Stands beside a farm from before the first submit."""

    def __init__(self, farm: Farm, url: str) -> None:
        self.farm = farm
        self.orders: dict[str, Order] = {}
        self._connection = connect(url)
        self._finished: Counter[str] = Counter()
        #: Whether every message was heard: not when the listener's own connection was cut.
        self.heard_all = True
        self._closing = threading.Event()
        self._listens = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="oracle", daemon=True)
        self._listener.start()
        assert self._listens.wait(30), "the oracle's subscription stands"

    def close(self) -> None:
        self._closing.set()
        self._listener.join()
        self._connection.close()

    def submit(
        self,
        numbers: Iterable[int],
        poison: Poison | None = None,
        reason: str | None = None,
        ends: tuple[JobStatus, ...] = (),
        size: int = 8,
        version: int = JOB_VERSION,
        **options: Any,
    ) -> list[Job]:
        """Submit a job for each number; each must end finished, or failed for `reason`, or as one of `ends`."""
        prepared = [self.farm.prepare(latents(number, poison, size), vae=VAE, **options) for number in numbers]
        if version != JOB_VERSION:
            prepared = [replace(one, spec=one.spec.model_copy(update={"version": version})) for one in prepared]
        jobs = self.farm.submit_prepared(prepared)
        wanted = ends or ((JobStatus.FINISHED,) if reason is None else (JobStatus.FAILED,))
        self.orders |= {one.spec.id: Order(one, reason, wanted) for one in prepared}
        return jobs

    def unended(self) -> list[str]:
        """Jobs that have not ended, or that nobody knows."""
        ids = list(self.orders)
        found: list[str] = []
        for start in range(0, len(ids), STATUSES):
            part = ids[start : start + STATUSES]
            statuses = read_statuses(self._connection, part)
            found += [one for one, status in zip(part, statuses, strict=True) if status not in TERMINAL_STATUSES]
        return found

    def verdict(self, seconds: float = 45.0) -> Verdict:
        """Wait until every job has ended, `seconds` at most, and until nothing is left behind; judge."""
        deadline = time.monotonic() + seconds
        lost = self._patiently(self.unended, deadline)
        left = self._patiently(self._left_behind, time.monotonic() + TIDY_SECONDS) if not lost else []
        # What is told as a job ends comes by another connection than its status.
        self._patiently(self._unheard, time.monotonic() + TIDY_SECONDS)
        verdict = Verdict(len(self.orders), lost=[f"{one}: {self._status(one)}" for one in lost], left_behind=left)
        for job_id, order in self.orders.items():
            if job_id not in lost:
                self._judge(job_id, order, verdict)
        return verdict

    def _patiently(self, look: Any, deadline: float) -> list[str]:
        """Look until nothing is found or the deadline is past; what is found then."""
        while True:
            try:
                found: list[str] = look()
            except AWAY as error:
                found = [f"Redis is away: {error}"]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def _unheard(self) -> list[str]:
        """Finished jobs of which no message came, though every message was heard."""
        if not self.heard_all:
            return []
        statuses = {
            one: self._connection.hget(keys.job(one), "status") for one in self.orders if not self._finished[one]
        }
        return [one for one, status in statuses.items() if status == JobStatus.FINISHED.encode()]

    def _judge(self, job_id: str, order: Order, verdict: Verdict) -> None:
        record = self.farm.job(job_id).record()
        if record.status not in order.ends:
            verdict.wrong.append(f"{job_id}: {record.status.value}, {record.reason}, attempts {record.attempts}")
        elif record.status is JobStatus.FINISHED:
            self._judge_pictures(job_id, order, verdict)
        elif order.reason is not None and not re.search(order.reason, record.reason or ""):
            verdict.wrong.append(f"{job_id}: failed for {record.reason!r}")
        told = self._finished[job_id]
        if told > 1 or self._results(job_id) > 1:
            verdict.published_twice.append(f"{job_id}: told {told} times, {self._results(job_id)} results in RQ")
        if self.heard_all and record.status is JobStatus.FINISHED and told == 0:
            verdict.wrong.append(f"{job_id}: nobody was told that it is finished")

    def _judge_pictures(self, job_id: str, order: Order, verdict: Verdict) -> None:
        wanted = order.pictures
        try:
            data = self.farm.job(job_id).fetch().data
        except JobFailed as error:
            verdict.wrong.append(f"{job_id}: {error}")
            return
        if len(data) != len(wanted) or any(
            not np.array_equal(np.asarray(Image.open(io.BytesIO(file))), picture)
            for file, picture in zip(data, wanted, strict=False)
        ):
            verdict.wrong.append(f"{job_id}: not its picture")

    def _left_behind(self) -> list[str]:
        """Traces of work under way, and pictures that no record names."""
        left = [key for pattern in TRACES for key in self._keys(pattern)]
        pictures = Counter(key.split(":")[2].partition(".")[0] for key in self._keys(keys.blob("image:*")))
        for job_id, found in pictures.items():
            report = self.farm.job(job_id).record().report
            if found != (len(report.images) if report else 0):
                left.append(f"{found} pictures of {job_id}")
        return left

    def _keys(self, pattern: str) -> Sequence[str]:
        return [key.decode() for key in self._connection.scan_iter(match=pattern, count=1000)]

    def _results(self, job_id: str) -> int:
        return int(self._connection.xlen(f"{rq_bridge.KEY_PREFIX}:results:{job_id}"))

    def _status(self, job_id: str) -> str:
        fields = self._connection.hmget(keys.job(job_id), "status", "attempts", "worker")
        return f"{fields}"

    def _listen(self) -> None:
        pubsub = self._connection.pubsub()
        while not self._closing.is_set():
            try:
                if not pubsub.subscribed:
                    pubsub.psubscribe(keys.done("*"))
                self._hear(pubsub.get_message(timeout=0.2))
            except AWAY:
                self.heard_all = False
                self._closing.wait(0.05)
        pubsub.close()

    def _hear(self, message: Any) -> None:
        if message is None:
            return
        if message["type"] == "psubscribe":
            self._listens.set()
        elif message["type"] == "pmessage" and message["data"] == JobStatus.FINISHED.encode():
            self._finished[message["channel"].decode().rpartition(":")[2]] += 1
