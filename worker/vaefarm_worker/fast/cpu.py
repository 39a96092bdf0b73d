"""What a CPU decodes in."""

from collections.abc import Iterable
from typing import Final

import torch

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.errors import ConfigurationError

#: What `--cpu-dtype` takes.
CHOICES: Final = ("auto", "float32", "bfloat16")


def on_cpu(entries: Iterable[VaeEntry], dtype: str | None) -> list[VaeEntry]:
    """The entries, with that dtype for a CPU where one is named; 'auto' is bfloat16 on processors that multiply it.

    Raises:
        ConfigurationError: a dtype that is none of CHOICES.
    """
    if dtype is None:
        return list(entries)
    if dtype not in CHOICES:
        raise ConfigurationError(f"--cpu-dtype {dtype!r} is not known; expected {', '.join(CHOICES)}")
    chosen = dtype if dtype != "auto" else "bfloat16" if multiplies_bfloat16() else "float32"
    return [entry.model_copy(update={"cpu_dtype": chosen}) for entry in entries]


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it: AVX-512 BF16 or AMX. Elsewhere it is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
