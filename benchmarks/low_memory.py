"""What a decode takes of memory and time, plain, in strips, and in diffusers' tiles: the full-size SD decoder."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, Final

import torch

from vaefarm_worker import strips
from vaefarm_worker.bench.architectures import random_vae
from vaefarm_worker.bench.live_bytes import peak_bytes
from vaefarm_worker.families.switches import bound_tiles, switched_on
from vaefarm_worker.vaes import drop_encoder

from .farm_under_test import Options
from .report import Figure, Row, middle

#: Sides of the square pictures, in pixels, unless the command line says others.
SIDES: Final = {"cpu": (512,), "cuda": (1024, 2048, 4096)}

LATENT_CHANNELS, SCALE = 4, 8

Decode = Callable[[torch.Tensor], torch.Tensor]


def stable_diffusion(device: torch.device | str, dtype: torch.dtype) -> Any:
    """The VAE of Stable Diffusion 1, 2 and XL at its full size, with random weights and no encoder."""
    with torch.device(device):
        vae = random_vae("sd-v1")
    drop_encoder(vae)
    # Not diffusers' own `to`, which warns of a cast after the load.
    return torch.nn.Module.to(vae, dtype)


def low_memory(options: Options) -> Figure:
    """Each way of decoding, in turns."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    vae = stable_diffusion(device, dtype)
    bound_tiles(vae, SCALE)
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    with torch.inference_mode():
        for side in options.pixels or SIDES.get(device.type, SIDES["cpu"]):
            latents = torch.randn(
                (1, LATENT_CHANNELS, side // SCALE, side // SCALE), generator=torch.Generator().manual_seed(1)
            ).to(device, dtype)
            raw[str(side)] = _measured(_ways(vae), latents, options.rounds)
            rows += _rows(side, raw[str(side)])
    return Figure(
        title=f"low-memory, the full-size SD decoder, random weights, {str(dtype).removeprefix('torch.')}, "
        f"{options.device}, {options.threads} threads",
        header=(
            "picture",
            "decode",
            "seconds",
            "times plain",
            "CPU, times plain",
            "peak MiB",
            "of plain's",
            "most levels off",
        ),
        rows=tuple(rows),
        raw=raw,
        note=f"Medians of {options.rounds}, in turns. Peak: beside the weights, "
        + ("by CUDA's allocator." if device.type == "cuda" else "tensors alive at a time, counted.")
        + " Levels of 255, against plain.",
    )


def _ways(vae: Any) -> dict[str, Decode]:
    def tiled(latents: torch.Tensor) -> torch.Tensor:
        with switched_on(vae, ("tiling",)):
            return vae.decode(latents).sample  # type: ignore[no-any-return]

    return {
        "plain": lambda latents: vae.decode(latents).sample,
        "half": partial(strips.decode, vae, recompute=False),
        "third": partial(strips.decode, vae, recompute=True),
        "tiles": tiled,
    }


def _measured(ways: dict[str, Decode], latents: torch.Tensor, rounds: int) -> dict[str, dict[str, Any]]:
    """By way: bytes, seconds of each round, levels off; a way without room has none of them."""
    found: dict[str, dict[str, Any]] = {}
    expected: torch.Tensor | None = None
    for name, decode in ways.items():
        # The first decode also warms up.
        try:
            peak, picture = _peak(decode, latents)
        except torch.OutOfMemoryError:
            continue
        levels = (picture.float() * 0.5 + 0.5).clamp(0, 1).mul(255).cpu()
        expected = levels if name == "plain" else expected
        off = None if expected is None else float((levels - expected).abs().max())
        found[name] = {"bytes": [peak], "levels": off, "seconds": [], "cpu_seconds": []}
        del picture
    for _ in range(rounds):
        for name, one in found.items():
            seconds, cpu_seconds = _seconds(ways[name], latents)
            one["seconds"].append(seconds)
            one["cpu_seconds"].append(cpu_seconds)
    return found


def _peak(decode: Decode, latents: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Bytes of a decode's peak, and its picture."""
    pictures: list[torch.Tensor] = []
    if latents.device.type != "cuda":
        return peak_bytes(lambda: pictures.append(decode(latents))), pictures[0]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(latents.device)
    before = torch.cuda.memory_allocated(latents.device)
    pictures.append(decode(latents))
    return torch.cuda.max_memory_allocated(latents.device) - before, pictures[0]


def _seconds(decode: Decode, latents: torch.Tensor) -> tuple[float, float]:
    """By the clock, and of this process' threads together: the latter does not mind who else is on the machine."""
    began, cpu_began = time.perf_counter(), time.process_time()
    picture = decode(latents)
    if picture.device.type == "cuda":
        torch.cuda.synchronize(picture.device)
    return time.perf_counter() - began, time.process_time() - cpu_began


def _rows(side: int, found: dict[str, dict[str, Any]]) -> list[Row]:
    plain = found.get("plain")
    rows: list[Row] = []
    for name in ("plain", "half", "third", "tiles"):
        one = found.get(name)
        if one is None:
            rows.append((f"{side} x {side}", name, "no room", *["-"] * 5))
            continue
        times, cpu_times, part = (
            "-" if plain is None else f"{median(one[what]) / median(plain[what]):.2f}"
            for what in ("seconds", "cpu_seconds", "bytes")
        )
        off = "-" if one["levels"] is None else f"{one['levels']:.3g}"
        peak = f"{one['bytes'][0] / 2**20:.0f}"
        rows.append((f"{side} x {side}", name, middle(one["seconds"]), times, cpu_times, peak, part, off))
    return rows
