"""What it costs to write a picture, by format and setting: the worker's own beside others."""

import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
from PIL import Image

from vaefarm_producer.local.processes import worker_folder
from vaefarm_shared.job import ImageFormat
from vaefarm_worker.encode import options_of

from .farm_under_test import Options
from .report import Figure, Row

#: Sides of the pictures, in pixels.
SIDES: Final = (512, 1024)

#: Held-out photographs that are enlarged, and so smooth.
ENLARGED: Final = ("cat_portrait", "pagoda_roofs")

#: Photographs of 192 x 192 pixels and more, of which squares are laid side by side: as finely grained as pictures get.
LAID: Final = ("cat_portrait", "pagoda_roofs", "astronaut_portrait", "photographer", "grace_hopper", "astronaut")
SQUARE: Final = 192


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to write a file."""

    image_format: ImageFormat
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Format and options, for the table."""
        said = " ".join(f"{name} {value}" for name, value in self.options.items() if name != "lossless")
        return f"{self.image_format}{' lossless' if 'lossless' in self.options else ''} {said}"

    @property
    def is_default(self) -> bool:
        """Whether the worker writes so unless a job says otherwise."""
        return self.options == options_of(self.image_format, lossless="lossless" in self.options)


#: Milliseconds, bytes and PSNR in dB, by picture.
Costs = dict[str, tuple[float, int, float]]

#: What all are compared with.
REFERENCE: Final = Setting("jpeg", {"quality": 90})

SETTINGS: Final = (
    *(Setting("jpeg", {"quality": quality}) for quality in (75, 90, 95)),
    *(Setting("jpeg", {"quality": quality, "subsampling": "4:4:4"}) for quality in (90, 95)),
    Setting("jpeg", {"quality": 90, "optimize": True}),
    Setting("jpeg", {"quality": 90, "progressive": True}),
    *(Setting("png", {"compress_level": level}) for level in (0, 1, 2, 3, 6)),
    *(Setting("webp", {"lossless": True, "quality": q, "method": m}) for q, m in ((0, 0), (25, 0), (0, 1), (75, 4))),
    *(Setting("webp", {"quality": 90, "method": method}) for method in (0, 1, 2, 3, 4, 6)),
)


def encoding(options: Options) -> Figure:
    """Milliseconds of a processor, bytes and what is lost, for each setting, size and picture."""
    costs = {side: {one.name: costs_of(one, side, options.rounds) for one in SETTINGS} for side in SIDES}
    return Figure(
        title="what it costs to write a picture: ms of one processor / KiB",
        header=("setting", *(f"{side} px" for side in SIDES), "time / JPEG q90", "bytes / JPEG q90", "PSNR, dB"),
        rows=tuple(row(one, costs) for one in SETTINGS),
        raw={str(side): by_name for side, by_name in costs.items()},
        note=f"Medians over three pictures; milliseconds over the rounds, ratios and PSNR at {SIDES[-1]} px.",
    )


def row(setting: Setting, costs: dict[int, dict[str, Costs]]) -> Row:
    """A setting's medians, and its ratios to the reference."""
    cells = []
    for by_name in costs.values():
        milliseconds, size_bytes, noise = map(median, zip(*by_name[setting.name].values(), strict=True))
        cells.append(f"{milliseconds:.1f} / {size_bytes / 1024:.0f}")
    pairs = zip(by_name[setting.name].values(), by_name[REFERENCE.name].values(), strict=True)
    times, sizes = zip(*((mine[0] / other[0], mine[1] / other[1]) for mine, other in pairs), strict=True)
    exact = "exact" if noise == float("inf") else f"{noise:.1f}"
    name = setting.name + " **(worker)**" * setting.is_default
    return (name, *cells, f"{median(times):.1f}", f"{median(sizes):.2f}", exact)


def costs_of(setting: Setting, side: int, rounds: int) -> Costs:
    """What each picture of that side costs."""
    return {name: write(picture, setting, rounds) for name, picture in pictures_of(side)}


def pictures_of(side: int) -> Iterator[tuple[str, Image.Image]]:
    """Names and square RGB pictures: two enlarged photographs, and many side by side at their own size."""
    folder = worker_folder("demo") / "photographs"
    opened = {name: Image.open(folder / f"{name}.webp").convert("RGB") for name in LAID}
    for name in ENLARGED:
        square = opened[name].crop((0, 0, SQUARE, SQUARE))
        yield f"{name.partition('_')[0]}, enlarged", square.resize((side, side), Image.Resampling.LANCZOS)
    laid, places = Image.new("RGB", (side, side)), range(0, side, SQUARE)
    for number, (x, y) in enumerate((x, y) for y in places for x in places):
        laid.paste(opened[LAID[number % len(LAID)]].crop((0, 0, SQUARE, SQUARE)), (x, y))
    yield "photographs side by side", laid


def write(picture: Image.Image, setting: Setting, rounds: int) -> tuple[float, int, float]:
    """Milliseconds that this thread computes for one file, the first not counted; its bytes; its PSNR in dB."""
    spent = []
    for _ in range(rounds + 1):
        file = io.BytesIO()
        began = time.thread_time()
        picture.save(file, format=setting.image_format.upper(), **setting.options)
        spent.append(1e3 * (time.thread_time() - began))
    size_bytes = file.tell()
    read, wanted = (np.asarray(one.convert("RGB"), np.float32) for one in (Image.open(file), picture))
    error = float(np.square(read - wanted).mean())
    return median(spent[1:]), size_bytes, 10 * math.log10(255**2 / error) if error else float("inf")
