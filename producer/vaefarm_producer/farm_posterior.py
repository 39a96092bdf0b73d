"""What a `FarmVAE` encodes to: a posterior in a pipeline's hands; asked for latents, it has them from the farm."""

from collections.abc import Callable
from typing import Final

import torch

#: Seeds of jobs are below this.
SEEDS: Final[int] = 2**63 - 1


class FarmPosterior:
    """In the place of DiagonalGaussianDistribution, as far as `retrieve_latents` of pipelines asks.

    Args:
        images: (n, 3, height, width) in [-1, 1].
        encode: Images and a seed, None for the posterior's mode -> latents, scaled by the VAE's own constants.
    """

    def __init__(self, images: torch.Tensor, encode: Callable[[torch.Tensor, int | None], torch.Tensor]) -> None:
        self._images = images
        self._encode = encode

    def mode(self) -> torch.Tensor:
        """The posterior's mode."""
        return self._encode(self._images, None)

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """A sample of the posterior.

        With a generator of the CPU from which nothing was drawn yet, that of the pipeline's own VAE, and the generator
        stands afterwards where it would stand then. From any other a seed is drawn: the same sample each time, not the
        one that the VAE would have drawn.
        """
        if generator is None or not is_fresh(generator):
            device = "cpu" if generator is None else generator.device
            return self._encode(self._images, int(torch.randint(SEEDS, (), generator=generator, device=device)))
        latents = self._encode(self._images, generator.initial_seed() % SEEDS)
        torch.randn(latents.shape, generator=generator, dtype=latents.dtype)
        return latents


def is_fresh(generator: torch.Generator) -> bool:
    """Whether it is a generator of the CPU as its seed left it."""
    if generator.device.type != "cpu":
        return False
    return torch.equal(generator.get_state(), torch.Generator().manual_seed(generator.initial_seed()).get_state())
