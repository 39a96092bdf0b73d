"""What a generator gains by `farm.attach`, and what it pays: against the same one decoding in its own process."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging

from vaefarm_producer.local.processes import worker_command

from . import attach_generator
from .attach_generator import PIXELS, VAE
from .farm_under_test import FarmUnderTest, Options, farm_with, python_path
from .report import Figure, middle
from .resident import peak_bytes

#: Pictures of a round, each a call of its own, and steps of each.
PICTURES: Final = 6
STEPS: Final = 8

#: Seconds that a generator may take.
ROUND_SECONDS: Final = 900.0

#: What keeps diffusers and transformers from telling what the pipeline lacks.
QUIET: Final = {"DIFFUSERS_VERBOSITY": "critical", "TRANSFORMERS_VERBOSITY": "critical"}

MEBI: Final = 1024**2

#: The sides by how the figure names them.
OWN, BESIDE, ELSEWHERE = SIDES = ("own process", "worker on this machine", "worker elsewhere, simulated")

Told = dict[str, Any]


def attach(options: Options) -> Figure:
    """Rounds of all three; a generator and a worker are new in each."""
    rounds: dict[str, list[Told]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="vaefarm-bench-", dir=options.folder) as name:
        folder = Path(name)
        made(folder / "pipeline")
        for _ in range(options.rounds):
            rounds[OWN].append(generated(options, folder, "own", {}))
            decode = median(rounds[OWN][-1]["decode_seconds"])
            local = worker_command(VAE, options.device, folder / "pipeline")
            fake = [*worker_command(VAE, options.device), "--decoder", "fake", "--fake-seconds", f"{decode:.4f}"]
            for side, command in ((BESIDE, local), (ELSEWHERE, fake)):
                # A picture a batch: the device of the simulation takes as long for each as this machine did.
                with farm_with(options, command, batch_pixels=PIXELS * PIXELS) as running:
                    rounds[side].append(through(options, folder, running))
    decodes = [one for own in rounds[OWN] for one in own["decode_seconds"]]
    return Figure(
        title=(
            f"attach, {PICTURES} pictures of {PIXELS} x {PIXELS}, one call each, {options.threads} torch threads on"
            f" {options.device}"
        ),
        header=("", *SIDES),
        rows=rows(rounds),
        raw=rounds,
        note=(
            f"StableDiffusionPipeline of diffusers with random weights, {STEPS} steps of a small UNet, and Stable"
            f" Diffusion's VAE at half its width, which decodes in {middle(decodes)} s in the generator's own process."
            " The farm's generators are loaded without a VAE. On this machine generator and worker share the cores."
            " Elsewhere: a fake decoder that sleeps as long as the round's own decodes took (their median), then"
            " encodes its picture here; no network between. Peak: VmHWM."
        ),
    )


def rows(rounds: dict[str, list[Told]]) -> tuple[tuple[str, ...], ...]:
    """Seconds and memory of each side."""
    figures: dict[str, Callable[[Told], float]] = {
        "s, first call to last picture": lambda one: one["seconds"],
        "s until the generator is free": lambda one: one["free_seconds"],
        "CPU s of the generator": lambda one: one["cpu_seconds"],
        "peak MiB of the generator": lambda one: one["peak_bytes"] / MEBI,
    }
    table = [(name, *(middle([of(one) for one in rounds[side]]) for side in SIDES)) for name, of in figures.items()]
    for name, key in (("last picture, times own", "seconds"), ("free, times own", "free_seconds")):
        shares = {
            side: [one[key] / own[key] for one, own in zip(rounds[side], rounds[OWN], strict=True)] for side in SIDES
        }
        table.append((name, *("1" if side == OWN else middle(shares[side]) for side in SIDES)))
    peaks = [middle([one["worker_bytes"] / MEBI for one in rounds[side]]) for side in (BESIDE, ELSEWHERE)]
    return (*table, ("peak MiB of the worker", "", *peaks))


def made(folder: Path) -> None:
    """Save the pipeline: random weights, no text encoder, of which diffusers would warn."""
    logging.set_verbosity(logging.CRITICAL)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=PIXELS // 8,
            block_out_channels=(128, 256, 512),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
        )
        vae = AutoencoderKL(
            block_out_channels=(64, 128, 256, 256),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
        )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def through(options: Options, folder: Path, running: FarmUnderTest) -> Told:
    """A generator attached to a farm, and what its worker took."""
    found = generated(options, folder, "farm", {"VAEFARM_REDIS_URL": running.server.url})
    return found | {"worker_bytes": peak_bytes(running.worker.pid)}


def generated(options: Options, folder: Path, side: str, variables: dict[str, str]) -> Told:
    """What a generator in a fresh process has to tell."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VAEFARM_")}
    environment |= {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": python_path(), **QUIET, **variables}
    arguments = (side, str(folder / "pipeline"), str(PICTURES), str(STEPS), str(options.threads))
    done = subprocess.run(
        [sys.executable, "-m", attach_generator.__name__, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        timeout=ROUND_SECONDS,
        check=True,
    )
    told: Told = json.loads(done.stdout)
    return told
