"""Flux.1 without its VAE: its latents come packed, so the job says height and width.

vaefarm up --vaes flux
export VAEFARM_REDIS_URL=...           # as `vaefarm up` printed it
python examples/flux.py
"""

import argparse
from pathlib import Path

import torch
from diffusers import FluxPipeline

from vaefarm_producer import Farm

PROMPT = (
    "Strawberry ice cream, in a stylish modern glass, coconut, splashing milk cream and honey,"
    " in a gradient purple background, fluid motion, dynamic movement, cinematic lighting, Mysterious"
)


def main(argv: list[str] | None = None) -> None:
    """Generate one picture's packed latents, submit them with their size, save the picture."""
    options = parse(argv)
    dtype = options.dtype or ("bfloat16" if options.device.startswith("cuda") else "float32")
    pipe = FluxPipeline.from_pretrained(options.model, torch_dtype=getattr(torch, dtype), vae=None)
    pipe.to(options.device)

    latents = pipe(
        prompt=options.prompt,
        guidance_scale=0.0,
        num_inference_steps=options.steps,
        height=options.height,
        width=options.width,
        generator=torch.Generator("cpu").manual_seed(options.seed),
        output_type="latent",
    ).images

    with Farm.from_env() as farm:
        job = farm.submit(
            latents,
            vae=options.vae,
            height=options.height,
            width=options.width,
            reproducible=options.reproducible,
        )
        job.image(timeout=options.timeout).save(options.out)
    print(options.out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; every default is the picture of the prompt above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="black-forest-labs/FLUX.1-schnell", help="repository or folder")
    parser.add_argument("--vae", default="flux", help="VAE id of the farm")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="bfloat16 on CUDA, float32 elsewhere, unless given")
    parser.add_argument("--reproducible", action="store_true", help="the pipeline's own picture, bit for bit")
    parser.add_argument("--timeout", type=float, default=300, help="seconds to wait for the picture")
    parser.add_argument("--out", type=Path, default=Path("flux.png"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
