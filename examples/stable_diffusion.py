"""Stable Diffusion without its VAE: generate latents here, let the farm decode them.

vaefarm up --vaes sd-v1
export VAEFARM_REDIS_URL=...           # as `vaefarm up` printed it
python examples/stable_diffusion.py
"""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from vaefarm_producer import Farm

PROMPT = (
    "Strawberry ice cream, in a stylish modern glass, coconut, splashing milk cream and honey,"
    " in a gradient purple background, fluid motion, dynamic movement, cinematic lighting, Mysterious"
)


def main(argv: list[str] | None = None) -> None:
    """Generate one picture's latents, submit them, save the picture."""
    options = parse(argv)
    dtype = options.dtype or ("float16" if options.device.startswith("cuda") else "float32")
    pipe = StableDiffusionPipeline.from_pretrained(
        options.model, torch_dtype=getattr(torch, dtype), variant=options.variant, vae=None
    ).to(options.device)

    latents = pipe(
        prompt=options.prompt,
        num_inference_steps=options.steps,
        height=options.size,
        width=options.size,
        generator=torch.Generator("cpu").manual_seed(options.seed),
        output_type="latent",
    ).images

    with Farm.from_env() as farm:
        job = farm.submit(latents, vae=options.vae, reproducible=options.reproducible)
        # The GPU is free for the next prompt from here on.
        job.image(timeout=options.timeout).save(options.out)
    print(options.out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; every default is the picture of the prompt above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stable-diffusion-v1-5/stable-diffusion-v1-5", help="repository or folder")
    parser.add_argument("--variant", help="file variant of the model, such as fp16")
    parser.add_argument("--vae", default="sd-v1", help="VAE id of the farm")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, help="pixels a side; the model's own otherwise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="float16 on CUDA, float32 elsewhere, unless given")
    parser.add_argument("--reproducible", action="store_true", help="the pipeline's own picture, bit for bit")
    parser.add_argument("--timeout", type=float, default=300, help="seconds to wait for the picture")
    parser.add_argument("--out", type=Path, default=Path("stable_diffusion.png"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
