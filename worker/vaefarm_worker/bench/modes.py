"""The ways of decoding that are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from diffusers import AutoencoderTiny

from vaefarm_shared.errors import InvalidOption

from .. import strips
from ..families.switches import MAX_TILE_PIXELS, switched_on
from .subject import Subject


@dataclass(frozen=True, slots=True)
class Mode:
    """One way: (n, c, h, w) latents in, pictures in about [-1, 1] out."""

    name: str
    #: What it is, for the chart's legend.
    title: str
    #: Its bars': told apart in grey and by those who see no red or green, too.
    colour: str
    decode: Callable[[Subject, torch.Tensor], torch.Tensor]
    #: Part of `Subject.least_bytes` that its tensors take at least, by the VAE and the picture's side in pixels: a case
    #: that is hopeless is not tried, since Linux ends a process that takes all of a CPU's memory.
    share: Callable[[Subject, int], float]
    #: Why it is not for a VAE; None where it is.
    refusal: Callable[[Subject], str | None] = lambda _: None
    #: Bytes of weights that it needs besides the VAE's own.
    extra_bytes: Callable[[Subject], int] = lambda _: 0


#: The tensors of an AutoencoderKL's widest block: three of 256 channels, where 1000 elements a pixel are reckoned with.
_PLAIN_SHARE: Final[float] = 0.75
_FAST_SHARE: Final[float] = 0.5


def _plain(subject: Subject, latents: torch.Tensor) -> torch.Tensor:
    return subject.module.decode(latents, return_dict=False)[0]  # type: ignore[no-any-return]


def _fast(subject: Subject, latents: torch.Tensor) -> torch.Tensor:
    assert subject.fast is not None, "what has none is refused"
    return subject.fast.decode(subject.module, latents)


def _in_strips(subject: Subject, latents: torch.Tensor, recompute: bool) -> torch.Tensor:
    return strips.decode(subject.module, latents, recompute=recompute)


def _tiled(subject: Subject, latents: torch.Tensor) -> torch.Tensor:
    with switched_on(subject.module, ("tiling",)):
        return _plain(subject, latents)


def _lacks_fast(subject: Subject) -> str | None:
    return None if subject.fast is not None else "nothing of it can be hastened"


def _lacks_strips(subject: Subject) -> str | None:
    part = strips.unknown_part(subject.module)
    return None if part is None else f"strips do not know its {part}"


def _strips_share(subject: Subject, share: float) -> float:
    """An AutoencoderTiny's strips are cut from the latents on, and take no part that could be told beforehand."""
    return 0.0 if isinstance(subject.module, AutoencoderTiny) else share


def _lacks_tiling(subject: Subject) -> str | None:
    return None if hasattr(subject.module, "enable_tiling") else "it has no tiling"


#: In the order in which they are measured: what is compared with `plain` comes after it.
MODES: Final[dict[str, Mode]] = {
    mode.name: mode
    for mode in (
        Mode("plain", "plain", "#8c96a3", _plain, lambda subject, size: _PLAIN_SHARE),
        Mode(
            "fast",
            "fast: as a worker decodes",
            "#2a9d8f",
            _fast,
            lambda subject, size: _FAST_SHARE,
            _lacks_fast,
            lambda subject: subject.fast_bytes,
        ),
        Mode(
            "half",
            "half: exact, in strips",
            "#1f77b4",
            partial(_in_strips, recompute=False),
            lambda subject, size: _strips_share(subject, 0.35),
            _lacks_strips,
        ),
        Mode(
            "third",
            "third: exact, in strips",
            "#0b3c6f",
            partial(_in_strips, recompute=True),
            lambda subject, size: _strips_share(subject, 0.15),
            _lacks_strips,
        ),
        Mode(
            "tiled",
            "tiled: other pictures",
            "#e8a33d",
            _tiled,
            lambda subject, size: _PLAIN_SHARE * min(1.0, (MAX_TILE_PIXELS / size) ** 2),
            _lacks_tiling,
        ),
    )
}


def chosen_modes(names: tuple[str, ...]) -> list[Mode]:
    """The modes of those names, in their own order; all of them where there are none. Raises InvalidOption."""
    for name in names:
        if name not in MODES:
            raise InvalidOption(f"--modes {name!r} is not known; expected some of {', '.join(MODES)}")
    return [mode for mode in MODES.values() if not names or mode.name in names]
