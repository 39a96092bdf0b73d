"""A pass through a VAE that was not finite, once more in the widest dtype."""

import logging
from collections.abc import Callable
from typing import Final

import torch

from vaefarm_shared.errors import NonFiniteImage
from vaefarm_shared.job import JobSpec

from .vaes import LoadedVae

logger = logging.getLogger(__name__)

#: The dtype of the second try.
WIDEST: Final[torch.dtype] = torch.float32


def run_widest(loaded: LoadedVae, spec: JobSpec, run: Callable[[torch.dtype], torch.Tensor]) -> torch.Tensor:
    """What `run` gives for a job alone in the widest dtype, in which the VAE's weights are meanwhile.

    Raises:
        NonFiniteImage: NaN or Inf here too, or the VAE's dtype is the widest already.
    """
    narrow = loaded.dtype
    not_finite = NonFiniteImage(f"VAE {spec.vae!r} {spec.task}s job {spec.id} to NaN or Inf, also in {WIDEST}")
    if narrow == WIDEST:
        raise not_finite
    logger.warning("job %s is not finite in %s; once more in %s", spec.id, narrow, WIDEST, extra={"job_id": spec.id})
    loaded.module.to(WIDEST)
    try:
        made = run(WIDEST)
    finally:
        # Float16 to float32 and back changes no weight.
        loaded.module.to(narrow)
    if not bool(torch.isfinite(made).all()):
        raise not_finite
    return made


def dtype_name(dtype: torch.dtype) -> str:
    """'float16', 'bfloat16' or 'float32'."""
    return str(dtype).removeprefix("torch.")
