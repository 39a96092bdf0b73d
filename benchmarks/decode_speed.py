"""How long a decode takes, plain, with each switch of the fast one, and with all: the full-size decoder of SD."""

import gc
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from math import log10
from statistics import median
from typing import Any, Final

import torch

from vaefarm_worker.bench.clock import seconds_of
from vaefarm_worker.bench.limit import peak_flops
from vaefarm_worker.fast import CHANNELS_LAST, FOLDED_ATTENTION, FOLDED_UPSAMPLE, FastDecoder, fast_decoder, wanted_on
from vaefarm_worker.fast.compiled import CompiledDecoder

from .farm_under_test import Options
from .low_memory import LATENT_CHANNELS, SCALE, stable_diffusion
from .report import Figure, Row

#: Sides of the square pictures, in pixels, unless the command line says others.
SIDES: Final = {"cpu": (256, 512), "cuda": (512, 1024)}

#: Operations of a plain decode for each pixel, and for each pair of them in attention, as FlopCounterMode counts.
FLOPS_PER_PIXEL, FLOPS_PER_PAIR = 9.43e6, 0.5

#: What a chip's peak is told in.
NARROW: Final = torch.bfloat16

DTYPES: Final = (torch.float32, NARROW)

Decode = Callable[[Any, torch.Tensor], torch.Tensor]


@dataclass
class Way:
    """One way of decoding, in one dtype, and what it took."""

    name: str
    dtype: torch.dtype
    fast: FastDecoder | None
    seconds: list[float] = field(default_factory=list)
    #: Against the plain decode in float32.
    most: float = 0.0
    psnr: float = float("inf")

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """(1, c, h, w) -> (1, 3, height, width)."""
        made: torch.Tensor = vae.decode(latents).sample if self.fast is None else self.fast.decode(vae, latents)
        return made


def decode_speed(options: Options) -> Figure:
    """All ways in turns, so that what slows the machine for a while slows all of them."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    vaes = {dtype: stable_diffusion(device, torch.float32) for dtype in DTYPES}
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    peak = peak_flops(device, NARROW)
    with torch.inference_mode():
        for side in options.pixels or SIDES.get(device.type, SIDES["cpu"]):
            ways = [way for dtype, vae in vaes.items() for way in _ways(vae, dtype, device, side)]
            for dtype, vae in vaes.items():
                torch.nn.Module.to(vae, dtype)
            _measure(ways, vaes, side, options.rounds)
            rows += [_row(side, way, ways[0], peak) for way in ways]
            raw[str(side)] = {f"{_short(way.dtype)} {way.name}": way.seconds for way in ways}
            del ways
            gc.collect()
            torch.nn.Module.to(vaes[NARROW], torch.float32)
    return Figure(
        title=f"decode-speed, the full-size SD decoder, random weights, {options.device}, {options.threads} threads",
        header=(
            *("picture", "dtype", "decode", "CPU seconds" if device.type == "cpu" else "seconds"),
            *("plain float32 / it", "bf16 peak", "most off", "PSNR, dB"),
        ),
        rows=tuple(rows),
        raw=raw | {"peak_flops": peak},
        note=f"Medians of {options.rounds}, in turns; the ratio is that of each turn. Peak: a plain decode's operations"
        f" a second, as a share of the {peak / 1e12:.2f} TFLOP/s of a product of two large matrices in bfloat16. Off:"
        " against plain float32, of [-1, 1].",
    )


def _ways(vae: Any, dtype: torch.dtype, device: torch.device, side: int) -> Iterator[Way]:
    """A VAE's ways; `vae` is in float32 still, as where a worker folds."""
    yield Way("plain", dtype, None)
    single: dict[str, Collection[str]] = {
        "written over in place": (),
        FOLDED_UPSAMPLE: (FOLDED_UPSAMPLE,),
        FOLDED_ATTENTION: (FOLDED_ATTENTION,),
        CHANNELS_LAST: (CHANNELS_LAST,),
    }
    for name, wanted in single.items():
        yield Way(name, dtype, _made(vae, wanted, dtype))
    yield Way("**all that a worker does**", dtype, _made(vae, wanted_on(device), dtype))
    if device.type == "cuda":
        for name, wanted in (("compiled", wanted_on(device)), ("compiled, channels last", single[CHANNELS_LAST])):
            fast = _made(vae, wanted, dtype)
            yield Way(name, dtype, FastDecoder(CompiledDecoder(fast.module, [(side // SCALE,) * 2]), fast.switches))


def _made(vae: Any, wanted: Collection[str], dtype: torch.dtype) -> FastDecoder:
    fast = fast_decoder(vae, wanted)
    assert fast is not None, "this decoder's structure is known"
    # What is shared with the plain decoder follows when that is narrowed.
    shared = {id(one) for one in vae.parameters()}
    for one in fast.module.parameters():
        if id(one) not in shared:
            one.data = one.data.to(dtype)
    return fast


def _measure(ways: list[Way], vaes: dict[torch.dtype, Any], side: int, rounds: int) -> None:
    shape = (1, LATENT_CHANNELS, side // SCALE, side // SCALE)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    device = next(vaes[NARROW].parameters()).device
    exact = None
    for turn in range(rounds):
        for way in ways:
            given = latents.to(device, way.dtype)
            if turn == 0 and device.type != "cpu":
                # Kernels are chosen, and compiled.
                way.decode(vaes[way.dtype], given)
            seconds, made = _timed(way, vaes[way.dtype], given)
            way.seconds.append(seconds)
            exact = made.float() if exact is None else exact
            if turn == 0:
                _compare(way, made, exact)


def _timed(way: Way, vae: Any, latents: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Seconds of a decode, and its pictures: a CPU's own, of all threads, so that what else it does counts little."""
    made: list[torch.Tensor] = []
    began = time.process_time()
    seconds = seconds_of(lambda: made.append(way.decode(vae, latents)), latents.device)
    return time.process_time() - began if latents.device.type == "cpu" else seconds, made[0]


def _compare(way: Way, made: torch.Tensor, exact: torch.Tensor) -> None:
    off = made.float() - exact
    way.most, error = float(off.abs().max()), float(off.square().mean())
    # The range is 2.
    way.psnr = 10 * log10(4 / error) if error else float("inf")


def _row(side: int, way: Way, plain: Way, peak: float) -> Row:
    ratios = [theirs / own for theirs, own in zip(plain.seconds, way.seconds, strict=True)]
    flops = FLOPS_PER_PIXEL * side**2 + FLOPS_PER_PAIR * side**4
    return (
        f"{side} px",
        _short(way.dtype),
        way.name,
        f"{median(way.seconds):.3f} ({min(way.seconds):.3f} to {max(way.seconds):.3f})",
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{100 * flops / median(way.seconds) / peak:.0f} %",
        "-" if way is plain else f"{way.most:.1e}",
        "-" if way is plain else f"{way.psnr:.1f}",
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
