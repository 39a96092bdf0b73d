"""A modular pipeline of Flux.1 whose last block queues latents instead of decoding them: no VAE is loaded.

vaefarm up --vaes flux
export VAEFARM_REDIS_URL=...           # as `vaefarm up` printed it
python examples/modular.py "a cat"
"""

import argparse
from pathlib import Path

import torch
from diffusers import FluxAutoBlocks

from vaefarm_producer import Farm, FarmDecodeStep


def main(argv: list[str] | None = None) -> None:
    """Put the farm's block in the place of the decoder's, run the pipeline, save the job's picture."""
    options = parse(argv)
    dtype = options.dtype or ("bfloat16" if options.device.startswith("cuda") else "float32")

    with Farm.from_env() as farm:
        blocks = FluxAutoBlocks()
        blocks.sub_blocks["decode"] = FarmDecodeStep(farm, options.vae, reproducible=options.reproducible)
        # It encodes the pictures of image-to-image, and would want the VAE for that.
        del blocks.sub_blocks["vae_encoder"]
        pipe = blocks.init_pipeline(options.model)
        pipe.load_components(torch_dtype=getattr(torch, dtype))
        pipe.to(options.device)

        job = pipe(
            prompt=options.prompt,
            guidance_scale=0.0,
            num_inference_steps=options.steps,
            height=options.height,
            width=options.width,
            generator=torch.Generator("cpu").manual_seed(options.seed),
            output="job",
        )
        job.image(timeout=options.timeout).save(options.out)
    print(options.out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--model", default="black-forest-labs/FLUX.1-schnell", help="repository or folder")
    parser.add_argument("--vae", default="flux", help="VAE id of the farm")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="bfloat16 on CUDA, float32 elsewhere, unless given")
    parser.add_argument("--reproducible", action="store_true", help="the pipeline's own picture, bit for bit")
    parser.add_argument("--timeout", type=float, default=300, help="seconds to wait for the picture")
    parser.add_argument("--out", type=Path, default=Path("modular.png"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
