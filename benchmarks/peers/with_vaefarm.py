"""vaefarm: `Farm` as a user has it, against `vaefarm worker --decoder fake`."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from vaefarm_producer import Farm, Job

from . import producer

#: The VAE whose latents these are, and their shape.
VAE: Final = "demo"
SHAPE: Final = (1, 4, 128, 128)

#: Seconds that one job may take.
JOB_SECONDS: Final = 60.0


class Side:
    """`submit_many`, then `as_completed`; a single job by `submit` and `result`."""

    def __init__(self, _: str) -> None:
        self._farm = Farm.from_env()

    def burst(self, latents: Sequence[bytes]) -> list[bytes]:
        """Images as their jobs end."""
        if len(latents) == 1:
            return [self._farm.submit(tensor(latents[0]), vae=VAE).result(JOB_SECONDS).data[0]]
        jobs = self.submit(latents)
        images = {job.id: job.fetch().data[0] for job in self._farm.as_completed(jobs, timeout=producer.ROUND_SECONDS)}
        return [images[job.id] for job in jobs]

    def submit(self, latents: Sequence[bytes]) -> list[Job]:
        """Each latent as a job of its own."""
        return self._farm.submit_many([tensor(one) for one in latents], vae=VAE)

    def wait(self, jobs: list[Job]) -> None:
        """Until the last has ended."""
        for _ in self._farm.as_completed(jobs, timeout=producer.ROUND_SECONDS):
            pass


def tensor(latent: bytes) -> npt.NDArray[np.float16]:
    """A latent as a generator has it."""
    return np.frombuffer(latent, np.float16).reshape(SHAPE)
