"""A pipeline whose calls return jobs: `farm.attach` submits what it generates, and goes on with the next.

vaefarm up --vaes sdxl
export VAEFARM_REDIS_URL=...           # as `vaefarm up` printed it
python examples/attach.py "a cat" "a dog" "a horse"
"""

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from vaefarm_producer import Farm


def main(argv: list[str] | None = None) -> None:
    """Generate each prompt's latents; save each picture as the farm has made it."""
    options = parse(argv)
    dtype = options.dtype or ("float16" if options.device.startswith("cuda") else "float32")
    pipe = DiffusionPipeline.from_pretrained(options.model, torch_dtype=getattr(torch, dtype), vae=None)
    pipe.to(options.device)
    options.out.mkdir(parents=True, exist_ok=True)

    with Farm.from_env() as farm:
        generate = farm.attach(pipe, vae=options.vae, reproducible=options.reproducible)
        jobs = {}
        for place, prompt in enumerate(options.prompts):
            # Whatever the pipeline takes. It returns a job at once, which a worker decodes while the next is generated.
            job = generate(
                prompt,
                num_inference_steps=options.steps,
                height=options.size,
                width=options.size,
                generator=torch.Generator("cpu").manual_seed(options.seed + place),
            )
            jobs[job] = options.out / f"{place}.png"

        for job in farm.as_completed(jobs, timeout=options.timeout):
            job.image().save(jobs[job])
            print(job.id, jobs[job])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    parser.add_argument("--model", default="stabilityai/stable-diffusion-xl-base-1.0", help="repository or folder")
    parser.add_argument("--vae", default="sdxl", help="VAE id of the farm")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--size", type=int, help="pixels a side; the model's own otherwise")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt; the next ones count up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="float16 on CUDA, float32 elsewhere, unless given")
    parser.add_argument("--reproducible", action="store_true", help="the pipeline's own pictures, bit for bit")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait for the last picture")
    parser.add_argument("--out", type=Path, default=Path("attach"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
