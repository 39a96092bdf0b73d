"""How a job's pictures were made: its provenance, in the record."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaefarm_shared.job import DecodeReport, ImageRecord

from .decoder import Decoded, Decoder

if TYPE_CHECKING:
    from .outbox import Done


@dataclass(frozen=True, slots=True)
class Reporter:
    """Writes reports in one worker's name."""

    worker_name: str
    decoder: Decoder

    def report(
        self, done: "Done", decoded: Decoded, seconds_encode: float, images: tuple[ImageRecord, ...]
    ) -> DecodeReport:
        """The report of one finished job; seconds are rounded to microseconds."""
        spec = done.job.spec
        return DecodeReport(
            vae=spec.vae,
            revision=self.decoder.vaes[spec.vae].revision,
            dtype=decoded.dtype,
            device=self.decoder.device,
            worker=self.worker_name,
            attempt=done.attempt,
            seconds_queued=round(done.job.seconds_queued, 6),
            seconds_decode=round(done.seconds_decode, 6),
            seconds_encode=round(seconds_encode, 6),
            batch_size=done.batch_size,
            reproducible=spec.reproducible,
            widened_from=decoded.widened_from,
            switches=decoded.switches,
            images=images,
        )
