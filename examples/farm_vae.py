"""An image-to-image pipeline whose VAE is the farm: it encodes the one picture and decodes the other.

vaefarm up --vaes sd-v1
export VAEFARM_REDIS_URL=...           # as `vaefarm up` printed it
python examples/farm_vae.py sketch.png "a castle on a hill"
"""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from vaefarm_producer import Farm, FarmVAE


def main(argv: list[str] | None = None) -> None:
    """Load the pipeline without its VAE, put the farm in its place, call it as ever."""
    options = parse(argv)
    dtype = getattr(torch, options.dtype or ("float16" if options.device.startswith("cuda") else "float32"))
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(options.model, torch_dtype=dtype, vae=None)
    pipe.to(options.device)

    with Farm.from_env() as farm:
        pipe.vae = FarmVAE(farm, options.vae, dtype=dtype, timeout=options.timeout, reproducible=options.reproducible)
        picture = pipe(
            options.prompt,
            image=Image.open(options.image).convert("RGB"),
            strength=options.strength,
            num_inference_steps=options.steps,
            generator=torch.Generator("cpu").manual_seed(options.seed),
        ).images[0]
    picture.save(options.out)
    print(options.out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="a picture whose sides are multiples of 8 pixels")
    parser.add_argument("prompt")
    parser.add_argument("--model", default="stable-diffusion-v1-5/stable-diffusion-v1-5", help="repository or folder")
    parser.add_argument("--vae", default="sd-v1", help="VAE id of the farm")
    parser.add_argument("--strength", type=float, default=0.8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="float16 on CUDA, float32 elsewhere, unless given")
    parser.add_argument("--reproducible", action="store_true", help="the pipeline's own picture but for float16")
    parser.add_argument("--timeout", type=float, default=300, help="seconds to wait for each encode and decode")
    parser.add_argument("--out", type=Path, default=Path("farm_vae.png"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
