"""Train the demo VAE, a diffusers AutoencoderKL of about one million parameters, on a CPU.

    python train_demo_vae.py OUT --minutes 46 --threads 1 --seed 0

writes OUT/config.json, OUT/diffusion_pytorch_model.safetensors (float16) and OUT/metrics.json, and prints
the PSNR of two pictures that training never sees. The crops and the start follow the seed; how many steps
fit into the minutes depends on the machine, so no two runs give the same weights bit by bit.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from demo_model import FIT_CROP, PARKED_LOGVAR, Autoencoder, build_model, fit_ends, load_model, soften
from demo_pictures import CropSampler, held_out_pictures, picture_to_tensor, psnr, tensor_to_picture
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior
from muon import Muon
from PIL import Image

LATENT_NOISE = 0.03
WARM_UP_STEPS = 20
# Each stage's rate falls over its last 60 %, which is where most of the sharpness is gained.
DECAY_FROM = 0.4
# Adam's rate for biases and norms, as a share of Muon's.
BIAS_RATE = 0.2
REPORT_SECONDS = 120


@dataclass(frozen=True)
class Stage:
    """One stage: its share of the time, its learning rate and its crops as (until, count, size)."""

    share: float
    rate: float
    crops: tuple[tuple[float, int, int], ...]

    def crops_at(self, progress: float) -> tuple[int, int]:
        """Give the batch's count and crop size at a progress in [0, 1) of the stage."""
        return next((count, size) for until, count, size in self.crops if progress < until)

    def rate_at(self, progress: float, step: int) -> float:
        """Give the learning rate: a warm-up by steps, then level, then linear to nearly zero."""
        decay = min(1.0, max(0.01, (1 - progress) / (1 - DECAY_FROM)))
        return self.rate * min(1.0, (step + 1) / WARM_UP_STEPS) * decay


# Small crops first, since their steps are cheap. Then larger ones, up to whole pictures, since GroupNorm and
# attention look at everything at once: a network that saw only small crops tints large pictures. In the last
# stage the sizes take turns, so that none is forgotten.
TURNS = (384, 192, 288) * 4
STAGES = (
    Stage(share=0.53, rate=5e-3, crops=((0.5, 8, 64), (0.85, 2, 128), (1.0, 1, 192))),
    Stage(share=0.30, rate=2e-3, crops=((0.5, 2, 128), (1.0, 1, 224))),
    Stage(share=0.17, rate=2e-3, crops=tuple(((k + 1) / len(TURNS), 1, n) for k, n in enumerate(TURNS))),
)


def loss_of(decoded: torch.Tensor, crops: torch.Tensor, posterior: Posterior) -> torch.Tensor:
    """Weigh the errors of pictures (n, 3, h, w) in [-1, 1] and their latents' distance from unit scale.

    The last term stands for the divergence from the normal prior (Kingma and Welling, 2014) and keeps its
    part in the mean; the log-variance, which training does not sample, is held where it was parked.
    """
    error = decoded - crops
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    scale = 0.5 * posterior.mean.square().mean() + 0.5 * (posterior.logvar - PARKED_LOGVAR).square().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.3 * edges + 1e-4 * scale  # type: ignore[no-any-return]


@torch.no_grad()
def decode_psnr(model: Autoencoder, pictures: dict[str, Image.Image]) -> dict[str, float]:
    """Give each picture's PSNR in dB after encoding to the latents' mode and decoding."""
    found = {}
    for name, picture in pictures.items():
        pixels = picture_to_tensor(picture)
        decoded = model.decode(model.encode(pixels).latent_dist.mode()).sample
        found[name] = round(psnr(tensor_to_picture(decoded), tensor_to_picture(pixels)), 2)
    return found


class Trainer:
    """Holds a model and its two optimisers for one stage."""

    def __init__(self, model: Autoencoder, sampler: CropSampler, stage: Stage) -> None:
        """Give Muon the weights and Adam (Kingma and Ba, 2015) the biases and norms."""
        self.model, self.sampler, self.stage = model, sampler, stage
        parameters = list(model.parameters())
        self.muon = Muon([p for p in parameters if p.ndim >= 2], lr=stage.rate)
        vectors = [p for p in parameters if p.ndim < 2]
        self.adam = torch.optim.Adam(vectors, lr=BIAS_RATE * stage.rate, betas=(0.9, 0.99))
        self.steps = 0

    def step(self, progress: float) -> None:
        """Take one step at a progress in [0, 1) of the stage."""
        rate = self.stage.rate_at(progress, self.steps)
        self.muon.param_groups[0]["lr"] = rate
        self.adam.param_groups[0]["lr"] = BIAS_RATE * rate
        crops = self.sampler.batch(*self.stage.crops_at(progress))
        posterior = self.model.encode(crops).latent_dist
        # A little fixed noise in place of the posterior's own, whose spread stalls so short a run.
        latents = posterior.mean + LATENT_NOISE * torch.randn_like(posterior.mean)
        loss = loss_of(self.model.decode(latents).sample, crops, posterior)
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.muon.step()
        self.adam.step()
        self.steps += 1

    def run(self, seconds: float, held_out: dict[str, Image.Image]) -> None:
        """Train for the given wall time and print the held-out PSNR every two minutes."""
        start = reported = time.monotonic()
        while (elapsed := time.monotonic() - start) < seconds:
            self.step(elapsed / seconds)
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                figures = decode_psnr(self.model, held_out)
                print(f"{elapsed / 60:5.1f} min  step {self.steps}  {figures}", flush=True)


@torch.no_grad()
def set_scaling_factor(model: Autoencoder, sampler: CropSampler) -> None:
    """Record 1 / spread of the latents, as latent diffusion defines it (Rombach et al., 2022, appendix G)."""
    latents = [model.encode(sampler.batch(2, 192)).latent_dist.mode().flatten() for _ in range(24)]
    model.register_to_config(scaling_factor=round(1 / float(torch.cat(latents).std()), 5))


def train(out: Path, minutes: float, seed: int) -> dict[str, object]:
    """Train through all stages, save the float16 model to out and give the run's figures."""
    torch.manual_seed(seed)
    sampler, held_out = CropSampler(seed), held_out_pictures()
    model = build_model().to(memory_format=torch.channels_last)
    soften(model)
    fit_ends(model, sampler.batch(96, FIT_CROP))
    print("start ", decode_psnr(model, held_out), flush=True)
    steps = 0
    for stage in STAGES:
        trainer = Trainer(model, sampler, stage)
        trainer.run(60 * minutes * stage.share, held_out)
        steps += trainer.steps
        model.save_pretrained(out)
    set_scaling_factor(model, sampler)
    model.half().save_pretrained(out)
    # The figures are those of the weights on disk, rounded to float16.
    figures = decode_psnr(load_model(out), held_out)
    parameters = model.num_parameters()
    return {"seed": seed, "minutes": minutes, "steps": steps, "parameters": parameters, "psnr_db": figures}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("out", type=Path, help="folder to write the model to")
    parser.add_argument("--minutes", type=float, default=46, help="wall time of the training (default: 46)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and crops (default: 0)")
    return parser.parse_args()


def main() -> None:
    """Train as the command line says."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    metrics = train(arguments.out, arguments.minutes, arguments.seed)
    metrics["threads"] = arguments.threads
    metrics["cpu_seconds"] = round(time.process_time())
    metrics["torch"] = torch.__version__
    (arguments.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print("final ", metrics, flush=True)


if __name__ == "__main__":
    main()
