"""A decoder that torch compiles for the sizes that an operator names, and that decodes others as it is.

What is compiled is compiled before the first decode, the largest size first: nothing is compiled while jobs wait, and
no limit of torch's can be reached unseen. Compiled code is kept in a folder that outlives the process.
"""

import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from vaefarm_shared.errors import ConfigurationError

logger = logging.getLogger(__name__)

#: Height and width.
Size = tuple[int, int]

#: Graphs that torch may keep for one function: two for each size of each VAE, and there is no harm in more.
GRAPHS: Final[int] = 1024

_SIZE: Final[re.Pattern[str]] = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def read_sizes(text: str | None) -> tuple[Size, ...]:
    """Heights and widths of '1024x1024,512x768', in which the width stands first. Raises ConfigurationError."""
    sizes = []
    for part in (one.strip() for one in (text or "").split(",")):
        found = _SIZE.fullmatch(part)
        if found is not None:
            sizes.append((int(found[2]), int(found[1])))
        elif part:
            raise ConfigurationError(
                f"--compile {part!r} is no size; expected WIDTHxHEIGHT in pixels, as in 1024x1024,512x768"
            )
    return tuple(dict.fromkeys(sizes))


def keep_compiled(folder: str | None) -> None:
    """Have compiled code kept in a folder, for this process and the next; ~/.cache/vaefarm/compiled unless given.

    TORCHINDUCTOR_CACHE_DIR, where it is set, wins.
    """
    chosen = folder or Path("~/.cache/vaefarm/compiled").expanduser()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(chosen))


class CompiledDecoder(nn.Module):
    """A decoder, compiled for some sizes of latents. One decode at a time."""

    def __init__(self, decoder: nn.Module, sizes: Sequence[Size], backend: str = "inductor") -> None:
        """`sizes`: of the latents; `backend`: torch's name of what makes code."""
        super().__init__()
        self.decoder = decoder
        self._compiled: Any = torch.compile(decoder, fullgraph=True, backend=backend)
        self._pending = sorted(sizes, key=lambda size: size[0] * size[1], reverse=True)
        self._ready: set[Size] = set()
        #: Whether the last decode was by compiled code.
        self.was_compiled = False

    @property
    def compiles_next(self) -> bool:
        """Whether the next call compiles."""
        return bool(self._pending)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) -> (n, 3, height, width); the first call compiles."""
        while self._pending:
            self._compile(self._pending.pop(0), sample)
        self.was_compiled = sample.shape[2:] in self._ready
        if self.was_compiled:
            try:
                return self._run(sample)
            except RuntimeError as error:
                if "fail_on_recompile" not in str(error):
                    raise
                self._ready.discard((sample.shape[2], sample.shape[3]))
                self.was_compiled = False
                logger.warning("latents of %s are decoded uncompiled from now on: %s", _shown(sample), _first(error))
        made: torch.Tensor = self.decoder(sample)
        return made

    def _run(self, sample: torch.Tensor) -> torch.Tensor:
        # An error where torch would compile once more.
        with torch.compiler.set_stance("fail_on_recompile"):
            made: torch.Tensor = self._compiled(sample)
        return made

    def _compile(self, size: Size, like: torch.Tensor) -> None:
        """Compile for one latent and for several; after what cannot be compiled nothing else is tried."""
        began = time.monotonic()
        try:
            with torch._dynamo.config.patch(recompile_limit=GRAPHS, accumulated_recompile_limit=GRAPHS):
                for count in (2, 1):
                    latents = like.new_zeros((count, like.shape[1], *size))
                    if count > 1:
                        torch._dynamo.mark_dynamic(latents, 0)
                    self._compiled(latents)
        except Exception as error:
            # A compiler that is missing, a part that it does not know, no room: the plain way is always there.
            self._pending.clear()
            logger.warning("latents of %dx%d and below are decoded uncompiled: %s", *size, _first(error))
            return
        self._ready.add(size)
        logger.info("compiled the decoder for latents of %dx%d in %.1f s", *size, time.monotonic() - began)


def _shown(sample: torch.Tensor) -> str:
    return "x".join(str(part) for part in sample.shape)


def _first(error: Exception) -> str:
    """The first line of an error that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
