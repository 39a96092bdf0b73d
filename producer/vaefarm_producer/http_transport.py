"""The transport over HTTP: a gateway's `/v1`, for those who have no Redis credentials."""

import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final, cast
from urllib.parse import urlencode

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import ConfigurationError, FarmUnavailable, JobExpired, JobNotFound
from vaefarm_shared.job import JobStatus
from vaefarm_shared.previews import SUFFIX, Put
from vaefarm_shared.reading import not_found
from vaefarm_shared.records import BlobRecord, JobRecord
from vaefarm_shared.settings import Settings
from vaefarm_shared.submissions import taken

from .background import Background
from .http_batch import batch_body
from .http_client import HttpClient, made_error, part
from .http_operations import HttpOperations
from .http_watcher import PAGE, HttpWatcher
from .submission import PreparedJob
from .transport import Fetched, Flushed, Glimpse

#: Seconds for which a contract that was read is believed.
CONTRACT_SECONDS: Final[float] = 60.0

#: How a gateway answers where there is no preview: nobody knows of one; it is not made yet; the job has ended.
NO_PREVIEW: Final = frozenset({404, 409, 410})


class HttpTransport(HttpOperations):
    """Jobs and pictures over HTTP, on one background loop."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is sent before the first call. Raises ConfigurationError."""
        super().__init__(settings)
        self._watcher = HttpWatcher(self._client, self._background)
        self._contracts: dict[str, tuple[float, Contract]] = {}
        # A farm that nobody closes is closed with the process.
        self._finalizer = weakref.finalize(self, _close, self._watcher, self._client, self._background)

    def contract(self, vae: str) -> Contract:
        """The contract that the gateway knows. Raises UnknownVae."""
        read_at, contract = self._contracts.get(vae, (-CONTRACT_SECONDS, None))
        if contract is None or time.monotonic() - read_at >= CONTRACT_SECONDS:
            contract = Contract.model_validate(self._insist("GET", f"/v1/vaes/{part(vae)}")["contract"])
            self._contracts[vae] = (time.monotonic(), contract)
        return contract

    def submit(self, jobs: Sequence[PreparedJob]) -> list[JobStatus]:
        """Put jobs on their queues in one request, repeated until it is answered or `submit_timeout` is over."""
        body, content_type = batch_body(jobs)
        entries = self._insist("POST", "/v1/batches", data=body, headers={"Content-Type": content_type})["jobs"]
        found = [
            JobStatus(entry["status"])
            if "status" in entry
            else made_error(entry["code"], entry["error"], entry.get("retry_after_seconds"))
            for entry in entries
        ]
        return taken(found)

    def put_latent(self, job: PreparedJob) -> str:
        """Raises ConfigurationError: plain RQ jobs are for those who reach Redis."""
        raise ConfigurationError("put_latent is for plain RQ jobs, which need Redis; over HTTP use submit")

    def spooled(self) -> int:
        """Nothing is ever spooled here."""
        return 0

    def flush(self, timeout: float | None = None) -> Flushed:
        """As there is nothing, nothing is sent."""
        return Flushed(0, 0)

    def status(self, job_id: str) -> JobStatus:
        """A job's status, in one request."""
        (status,) = self.statuses([job_id])
        if status is None:
            raise not_found(job_id)
        return status

    def statuses(self, job_ids: Sequence[str]) -> list[JobStatus | None]:
        """The status of each job; None where nobody knows it."""
        found: list[str | None] = []
        for start in range(0, len(job_ids), PAGE):
            page = list(job_ids[start : start + PAGE])
            answer = self._background.run(self._client.call("POST", "/v1/statuses", json={"ids": page}))
            found += answer.json()["statuses"]
        return [None if status is None else JobStatus(status) for status in found]

    def record(self, job_id: str) -> JobRecord:
        """A job's record, in one request; its blobs are paths of the gateway's."""
        answer = self._background.run(self._client.send("GET", f"/v1/jobs/{part(job_id)}"))
        if answer.status == JobExpired.http_status:
            raw: dict[str, Any] = answer.json()
            return JobRecord(id=job_id, status=JobStatus.EXPIRED, reason=raw.get("reason"))
        self._client.check(answer)
        return JobRecord.model_validate(answer.json())

    def fetch_many(self, job_ids: Sequence[str]) -> list[Fetched | None]:
        """None of the first: each is a request of its own."""
        return [None]

    def stored(self, job_id: str, one: BlobRecord) -> bytes:
        """The bytes of a stored picture, or latents."""
        data = self._background.run(self._client.call("GET", f"/v1/jobs/{part(job_id)}/image/{_index(one)}")).body
        if len(data) != one.size_bytes:
            raise FarmUnavailable(f"{one.blob} came with {len(data)} bytes in place of {one.size_bytes}; try again")
        return data

    def preview(self, job_id: str, index: int) -> Glimpse:
        """A picture of a job's newest preview, in one request."""
        answer = self._background.run(self._client.send("GET", f"/v1/jobs/{part(job_id)}/preview/{index}"))
        if answer.status in NO_PREVIEW:
            return Glimpse(is_over=answer.status == JobExpired.http_status)
        self._client.check(answer)
        return Glimpse(answer.body, answer.headers.get("Content-Type", "").removeprefix("image/"))

    def put_preview(self, job: PreparedJob) -> Put:
        """Queue a preview before its job, in one request."""
        spec = job.spec
        wanted = {"vae": spec.vae, "priority": spec.priority, "producer": spec.producer}
        height, width = spec.picture_size
        path = f"/v1/jobs/{part(spec.id.removesuffix(SUFFIX))}/preview"
        query = urlencode({**wanted, "height": height, "width": width})
        headers = {"Content-Type": "application/safetensors"}
        call = self._client.call("PUT", f"{path}?{query}", data=job.packed, headers=headers)
        return cast("Put", self._background.run(call).json()["verdict"])

    def drop_preview(self, job_id: str) -> bool:
        """Remove a job's preview; False where there is none."""
        try:
            self._background.run(self._client.insist("DELETE", f"/v1/jobs/{part(job_id)}/preview"))
        except JobNotFound:
            return False
        return True

    def ended(self, job_id: str) -> "Future[JobStatus]":
        """A future of the job's final status."""
        return self._watcher.ended(job_id)

    def cancel(self, job_id: str) -> bool:
        """End a job that has not ended."""
        try:
            answer = self._insist("POST", f"/v1/jobs/{part(job_id)}/cancel")
        except JobExpired:
            return False
        return bool(answer["status"] == JobStatus.CANCELED)

    def cancel_many(self, job_ids: Sequence[str]) -> list[JobStatus | None]:
        """End those that have not ended; how each stands now, None where nobody knows it."""
        statuses: list[str | None] = []
        for start in range(0, len(job_ids), PAGE):
            page = list(job_ids[start : start + PAGE])
            statuses += self._insist("POST", "/v1/cancels", json={"ids": page})["statuses"]
        return [None if status is None else JobStatus(status) for status in statuses]

    def retry(self, job_id: str) -> bool:
        """Put a failed job back on its queue."""
        answer = self._background.run(self._client.insist("POST", f"/v1/jobs/{part(job_id)}/retry"))
        # Queued also where the reply to an earlier try was lost.
        return answer.status == 202 or answer.json()["status"] == JobStatus.QUEUED

    def discard(self, job_id: str) -> None:
        """Remove a job's pictures and record."""
        path = f"/v1/jobs/{part(job_id)}"
        # The first ends a job that has not ended, the second removes it.
        while self._background.run(self._client.insist("DELETE", path)).status != 204:
            pass

    def close(self) -> None:
        """Cancel what waits, and close the connections."""
        self._finalizer()


def _close(watcher: HttpWatcher, client: HttpClient, background: Background) -> None:
    async def last() -> None:
        await watcher.close()
        await client.close()

    background.close(last)


def _index(one: BlobRecord) -> int:
    """The place of a stored blob among those of its job. Raises FarmUnavailable for what names none."""
    try:
        return int(one.blob.rpartition("/image/")[2])
    except ValueError:
        raise FarmUnavailable(f"the gateway names {one.blob[:80]!r} as a picture's place; is it another's?") from None
