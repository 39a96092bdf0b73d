"""Previews over Redis."""

from vaefarm_shared import previews
from vaefarm_shared.connection import farm_errors
from vaefarm_shared.errors import FarmError, JobExpired, JobNotFound
from vaefarm_shared.job import ADMIN
from vaefarm_shared.previews import Preview, Put

from .redis_blobs import RedisBlobs, store_errors
from .submission import PreparedJob
from .transport import Glimpse


class RedisPreviews(RedisBlobs):
    """Previews of a farm over a Redis connection."""

    def preview_state(self, job_id: str) -> Preview:
        """How a job's preview stands, in one round trip. Raises JobNotFound where neither is known."""
        with farm_errors(self._connection):
            return previews.read_preview(self._connection, job_id)

    def preview(self, job_id: str, index: int) -> Glimpse:
        """A picture of a job's newest preview, in two round trips."""
        try:
            state = self.preview_state(job_id)
        except JobNotFound:
            return Glimpse()
        images = state.report.images if state.report is not None else ()
        if index >= len(images):
            return Glimpse(is_over=state.is_over)
        try:
            return Glimpse(self.stored(job_id, images[index]), images[index].image_format)
        except JobExpired:
            # A newer one took its place, or its job has ended.
            return Glimpse()

    def put_preview(self, job: PreparedJob) -> Put:
        """Queue a preview before its job, in one try."""
        return self.put_preview_within(job, None)

    def put_preview_within(self, job: PreparedJob, quota: int | None) -> Put:
        """As `put_preview`; raises QuotaExceeded for more than `quota` unended jobs of an owner."""
        outside: list[tuple[str, bytes]] = []
        preview = self._submission(job, outside)
        unnamed = [preview.latent_reference] if outside else []
        with farm_errors(self._connection), store_errors():
            if outside:
                self._write(outside)
            try:
                verdict, replaced = previews.put_preview(self._connection, preview, self._limits(), quota)
            except FarmError:
                self._tidily(lambda: unnamed)
                raise
        # What was replaced is named no more, nor what was written for a preview that was not taken.
        self._tidily(lambda: [replaced] if verdict == "queued" else unnamed)
        return verdict

    def drop_preview(self, job_id: str, owner: str = ADMIN) -> bool:
        """Remove a job's preview; False where there is none."""
        return self._insist(lambda: previews.drop_preview(self._connection, job_id, owner))
