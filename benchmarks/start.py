"""How soon a worker's first picture is there, beside the least that any process must do for one."""

import os
import subprocess
import sys
import time

import numpy as np

from vaefarm_producer import Farm
from vaefarm_producer.local.processes import end, worker_command

from .farm_under_test import END_SECONDS, JOB_SECONDS, VAE, Options, local_redis, python_path
from .report import Figure, middle

#: Latents of a picture of 512 x 512.
SHAPE = (1, 4, 64, 64)

#: Import, from_pretrained, one decode.
BARE = f"""
import torch
from importlib.resources import files
from diffusers import AutoencoderKL
vae = AutoencoderKL.from_pretrained(str(files("vaefarm_worker").joinpath("demo/vae")))
with torch.inference_mode():
    vae.decode(torch.zeros{SHAPE})
"""


def start(options: Options) -> Figure:
    """From the command to the first picture in the producer's hands; the job waits already. Rounds take turns."""
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": python_path()}
    workers, bare = [], []
    with local_redis(options) as server, Farm(server.url) as farm:
        for turn in range(options.rounds + 1):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", BARE], env=environment, check=True)
            bare.append(time.perf_counter() - began)
            job = farm.submit(np.full(SHAPE, turn, np.float32), vae=VAE)
            began = time.perf_counter()
            worker = subprocess.Popen(
                worker_command(VAE, options.device),
                env=environment | {"VAEFARM_REDIS_URL": server.url},
                stderr=subprocess.DEVNULL,
            )
            try:
                job.image(timeout=JOB_SECONDS)
                workers.append(time.perf_counter() - began)
            finally:
                end(worker, END_SECONDS)
    # The first round reads the libraries from the disk.
    workers, bare = workers[1:], bare[1:]
    ratios = [mine / least for mine, least in zip(workers, bare, strict=True)]
    return Figure(
        title=f"start, one job of {SHAPE[2] * 8} x {SHAPE[3] * 8} that waits already, demo's VAE, {options.device}",
        header=("", f"median of {options.rounds} (range)"),
        rows=(
            ("worker command to first picture, s", middle(workers, ".2f")),
            ("import, from_pretrained and one decode, s", middle(bare, ".2f")),
            ("worker / bare", middle(ratios, ".2f")),
        ),
        raw={"worker_seconds": workers, "bare_seconds": bare},
    )
