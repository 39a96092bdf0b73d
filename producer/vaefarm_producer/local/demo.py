"""`vaefarm demo`: a farm of three processes decodes latents of photographs while you watch."""

import math
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from vaefarm_shared.errors import ConfigurationError, FarmError

from ..farm import Farm
from .processes import end, spawn, worker_command, worker_folder
from .redis_server import LocalRedis

#: Seconds that the worker may take to import torch and load its VAE.
WORKER_SECONDS: Final[float] = 180.0

#: Seconds that all pictures may take.
PICTURES_SECONDS: Final[float] = 300.0

#: Pixels of one picture on the contact sheet, and of the line below it.
CELL, CAPTION = 192, 22


@dataclass(frozen=True, slots=True)
class Shown:
    """A decoded picture, its original, and how far they are apart."""

    name: str
    image: Image.Image
    original: Image.Image
    psnr: float
    seconds_decode: float


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made if missing.")] = Path("vaefarm-demo"),
) -> None:
    """Decode latents of photographs on a farm of three processes: Redis, a worker, a generator.

    Needs no download and no GPU. Writes each picture and a contact sheet.
    """
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    command = worker_command("demo", "cpu")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vaefarm-demo-")))
        server = stack.enter_context(LocalRedis(folder, durable=False))
        environment = os.environ | {"VAEFARM_REDIS_URL": server.url, "VAEFARM_STORE": "redis://"}
        log_path = out / "worker.log"
        log = stack.enter_context(log_path.open("wb"))
        farm = stack.enter_context(Farm(server.url))
        with console.status("starting Redis and a worker ..."):
            worker = spawn(command, environment, log)
            stack.callback(end, worker, 30.0)
            wait_for_worker(farm, worker, log_path)
        with console.status("decoding ..."):
            started = time.monotonic()
            names = run_generator(environment)
            shown = [show(farm, job_id, name) for job_id, name in names.items()]
            seconds = time.monotonic() - started
    for picture in shown:
        picture.image.save(out / f"{picture.name}.png")
    contact_sheet(shown).save(out / "contact_sheet.png")
    print_table(console, shown, seconds, out)


def wait_for_worker(farm: Farm, worker: "subprocess.Popen[bytes]", log_path: Path) -> None:
    """Return once the worker serves. Raises ConfigurationError with its last line if it ends instead."""
    deadline = time.monotonic() + WORKER_SECONDS
    while not farm.workers():
        if worker.poll() is not None or time.monotonic() > deadline:
            lines = log_path.read_text().strip().splitlines() or ["it said nothing"]
            raise ConfigurationError(f"the worker did not start: {lines[-1]} (more in {log_path})")
        time.sleep(0.05)


def run_generator(environment: dict[str, str]) -> dict[str, str]:
    """Run the generation process; the name of each job it submitted, by id."""
    command = [
        sys.executable,
        "-m",
        "vaefarm_producer.local.generate",
        str(worker_folder("demo") / "latents"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise FarmError(f"the generation process failed: {lines[-1]}")
    pairs = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    return {job_id: name for job_id, name in pairs}


def show(farm: Farm, job_id: str, name: str) -> Shown:
    """Wait for a job by its id, and set its picture beside the original."""
    result = farm.job(job_id).result(timeout=PICTURES_SECONDS)
    image = result.images[0]
    with Image.open(worker_folder("demo") / "photographs" / f"{name}.webp") as file:
        original = file.convert("RGB")
    return Shown(name, image, original, psnr(image, original), result.report.seconds_decode)


def psnr(image: Image.Image, original: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of 8 bits, in dB: 10 log10(255^2 / mean squared error)."""
    difference = np.asarray(image, np.float64) - np.asarray(original, np.float64)
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def contact_sheet(shown: list[Shown], columns: int = 3) -> Image.Image:
    """Each original with its decode to the right, and below them the name and the PSNR."""
    rows = math.ceil(len(shown) / columns)
    sheet = Image.new("RGB", (columns * (2 * CELL + 16), rows * (CELL + CAPTION + 8)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for place, picture in enumerate(shown):
        x, y = (place % columns) * (2 * CELL + 16) + 8, (place // columns) * (CELL + CAPTION + 8) + 4
        for offset, image in ((0, picture.original), (CELL, picture.image)):
            small = image.copy()
            small.thumbnail((CELL - 4, CELL - 4))
            sheet.paste(small, (x + offset, y))
        draw.text((x, y + CELL), f"{picture.name}: original, decoded ({picture.psnr:.1f} dB)", "black", font=font)
    return sheet


def print_table(console: Console, shown: list[Shown], seconds: float, out: Path) -> None:
    """Print each picture's figures, and the farm's."""
    table = Table("picture", "pixels", "decode s", "PSNR dB")
    for picture in shown:
        size = f"{picture.image.width} x {picture.image.height}"
        table.add_row(picture.name, size, f"{picture.seconds_decode:.3f}", f"{picture.psnr:.1f}")
    console.print(table)
    mean = sum(picture.psnr for picture in shown) / len(shown)
    console.print(f"{len(shown)} jobs in {seconds:.1f} s, {len(shown) / seconds:.1f} images/s, mean PSNR {mean:.1f} dB")
    console.print(f"pictures and contact_sheet.png are in {out}", highlight=False, soft_wrap=True)
