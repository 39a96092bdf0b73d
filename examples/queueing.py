"""Go on generating while the farm decodes: each latent is submitted as it comes, pictures are saved as they end.

vaefarm up --vaes sd-v1
export VAEFARM_REDIS_URL=...           # as `vaefarm up` printed it
python examples/queueing.py
"""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from vaefarm_producer import Farm

PROMPTS = [
    "Blueberry ice cream, in a stylish modern glass , ice cubes, nuts, mint leaves, splashing milk cream,"
    " in a gradient purple background, fluid motion, dynamic movement, cinematic lighting, Mysterious",
    "Lemonade in a glass, mint leaves, in an aqua and white background, flowers, ice cubes, halo, fluid motion,"
    " dynamic movement, soft lighting, digital painting, rule of third's composition, Art by Greg rutkowski,"
    " Coby whitmore",
    "Comic book art, beautiful, vintage, pastel neon colors, extremely detailed pupils, delicate features,"
    " light on face, slight smile, Artgerm, Mary Blair, Edmund Dulac, long dark locks, bangs, glowing,"
    " fashionable style, fairytale ambience, hot pink.",
    "Masterpiece, vanilla cone ice cream garnished with chocolate syrup, crushed nuts, choco flakes,"
    " in a brown background, gold, cinematic lighting, Art by WLOP",
    "A bowl of milk, falling cornflakes, berries, blueberries, in a white background, soft lighting,"
    " intricate details, rule of third's, octane render, volumetric lighting",
    "Cold Coffee with cream, crushed almonds, in a glass, choco flakes, ice cubes, wet, in a wooden background,"
    " cinematic lighting, hyper realistic painting, art by Carne Griffiths, octane render, volumetric lighting,"
    " fluid motion, dynamic movement, muted colors,",
]


def main(argv: list[str] | None = None) -> None:
    """Submit each prompt's latents as they are generated; save each picture as it ends."""
    options = parse(argv)
    dtype = options.dtype or ("float16" if options.device.startswith("cuda") else "float32")
    pipe = StableDiffusionPipeline.from_pretrained(options.model, torch_dtype=getattr(torch, dtype), vae=None).to(
        options.device
    )
    if options.compile:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.unet = torch.compile(pipe.unet, mode="reduce-overhead", fullgraph=True)
    options.out.mkdir(parents=True, exist_ok=True)

    with Farm.from_env() as farm:
        jobs = {}
        for place, prompt in enumerate(PROMPTS):
            latents = pipe(
                prompt=prompt,
                num_inference_steps=options.steps,
                height=options.size,
                width=options.size,
                generator=torch.Generator("cpu").manual_seed(options.seed + place),
                output_type="latent",
            ).images
            # Returns at once: a worker decodes this one while the next is generated.
            job = farm.submit(latents, vae=options.vae, reproducible=options.reproducible, metadata={"prompt": prompt})
            jobs[job] = options.out / f"{place}.png"

        for job in farm.as_completed(jobs, timeout=options.timeout):
            job.image().save(jobs[job])
            print(job.id, jobs[job])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Lykon/dreamshaper-8", help="repository or folder")
    parser.add_argument("--vae", default="sd-v1", help="VAE id of the farm")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, help="pixels a side; the model's own otherwise")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt; the next ones count up")
    parser.add_argument("--compile", action="store_true", help="compile the UNet; for CUDA")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="float16 on CUDA, float32 elsewhere, unless given")
    parser.add_argument("--reproducible", action="store_true", help="the pipeline's own pictures, bit for bit")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait for the last picture")
    parser.add_argument("--out", type=Path, default=Path("queueing"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
