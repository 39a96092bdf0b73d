"""A job on its way to its queue, and what becomes of many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .errors import FarmError, QueueFull, QuotaExceeded
from .job import JobSpec, JobStatus
from .queues import queue_name

#: Bytes of the largest latent that its script carries as an argument: those of 512 x 512 pixels, and their header.
CARRIED_BYTES: Final[int] = 40 * 1024


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked job on its way to its queue."""

    spec: JobSpec
    latent_reference: str
    #: The latent's bytes where Redis keeps them; empty where they were stored before.
    latent_bytes: bytes
    #: Bytes of Redis that the job holds until it ends: its latent, and room for its pictures.
    held_bytes: int = 0
    #: The preview that is queued before it; its latent is the job's own.
    preview: "Submission | None" = None

    @property
    def is_carried(self) -> bool:
        """Whether the script is given all that there is of the latent's bytes."""
        return len(self.latent_bytes) <= CARRIED_BYTES

    @property
    def latent_name(self) -> str:
        """The latent's blob name."""
        return self.latent_reference.partition(":")[2]

    @property
    def queue(self) -> str:
        """The queue it goes to."""
        return queue_of(self.spec)


def queue_of(spec: JobSpec) -> str:
    """The queue of a job."""
    return queue_name(spec.vae, spec.priority, spec.picture_pixels, spec.producer)


def taken(verdicts: Sequence[JobStatus | FarmError]) -> list[JobStatus]:
    """How each of many jobs stands, where every one was taken; else the first error that trying again does not mend, or
    the first of the others, is raised."""
    refusals = [verdict for verdict in verdicts if isinstance(verdict, FarmError)]
    # A full farm takes the others later; what else is wrong stays so.
    for refusal in sorted(refusals, key=lambda refusal: isinstance(refusal, QueueFull | QuotaExceeded)):
        raise refusal
    return [verdict for verdict in verdicts if isinstance(verdict, JobStatus)]
