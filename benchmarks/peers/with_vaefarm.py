"""vaefarm: `Farm` as a user has it, against `vaefarm worker --decoder fake`."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from vaefarm_producer import Farm, Job

from . import producer

#: The VAE whose latents these are, and their shape.
VAE: Final = "demo"
SHAPE: Final = (1, 4, 128, 128)

#: Seconds that one job may take.
JOB_SECONDS: Final = 60.0


class Side:
    """`submit_many`, then `as_completed`."""

    def __init__(self, url: str) -> None:
        self._farm = Farm(url)

    def burst(self, latents: Sequence[bytes]) -> list[bytes]:
        """Images as their jobs end."""
        jobs = self.submit(latents)
        images = {job.id: job.fetch().data[0] for job in self._farm.as_completed(jobs, timeout=producer.ROUND_SECONDS)}
        return [images[job.id] for job in jobs]

    def submit(self, latents: Sequence[bytes]) -> list[Job]:
        """Each latent as a job of its own."""
        return self._farm.submit_many([np.frombuffer(one, np.float16).reshape(SHAPE) for one in latents], vae=VAE)

    def wait(self, jobs: list[Job]) -> None:
        """Until the last has ended."""
        for _ in self._farm.as_completed(jobs, timeout=producer.ROUND_SECONDS):
            pass
