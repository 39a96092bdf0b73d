"""How a job's pictures were made: its provenance, in the record."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vaefarm_shared.records import DecodeReport, ImageRecord, LatentsRecord, TensorRecord, VideoRecord

from .after_decode import AfterDecodes
from .decoder import Decoded, Decoder, Encoded

if TYPE_CHECKING:
    from .endings import Done

#: The device of what an endpoint decoded.
REMOTE: Final[str] = "remote"


@dataclass(frozen=True, slots=True)
class Reporter:
    """Writes reports in one worker's name."""

    worker_name: str
    decoder: Decoder
    after_decode: AfterDecodes

    def report(
        self,
        done: "Done",
        made: Decoded | Encoded,
        seconds_encode: float,
        images: tuple[ImageRecord, ...] = (),
        videos: tuple[VideoRecord, ...] = (),
        latents: LatentsRecord | None = None,
        tensor: TensorRecord | None = None,
    ) -> DecodeReport:
        """The report of one finished job; seconds are rounded to microseconds."""
        spec = done.job.spec
        endpoint = made.endpoint if isinstance(made, Decoded) else None
        revision = made.revision if isinstance(made, Decoded) else None
        return DecodeReport(
            vae=spec.vae,
            revision=revision or self.decoder.vaes[spec.vae].revision,
            dtype=made.dtype,
            device=self.decoder.device if endpoint is None else REMOTE,
            worker=self.worker_name,
            endpoint=endpoint,
            attempt=done.attempt,
            seconds_queued=round(done.job.seconds_queued, 6),
            seconds_decode=round(done.seconds_decode, 6),
            seconds_encode=round(seconds_encode, 6),
            batch_size=done.batch_size,
            reproducible=spec.reproducible,
            widened_from=made.widened_from,
            switches=made.switches,
            safety_checked=isinstance(made, Decoded) and self.after_decode.check_safety,
            after_decode=self.after_decode.names if isinstance(made, Decoded) else (),
            images=images,
            videos=videos,
            latents=latents,
            tensor=tensor,
        )
