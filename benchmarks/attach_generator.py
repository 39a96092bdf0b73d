"""A generator of diffusers that decodes by itself or by a farm, in a process of its own.

python -m benchmarks.attach_generator own|farm PIPELINE PICTURES STEPS THREADS     a line of JSON at the end

The farm is that of the environment.
"""

import json
import sys
import time
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging
from PIL import Image

from vaefarm_producer import Farm

from .resident import peak_bytes

#: The VAE of the catalogue whose latents these are, and the pictures' side in pixels.
VAE: Final = "sd-v1"
PIXELS: Final = 256

#: Seconds that all pictures may take.
SECONDS: Final = 600.0


def main() -> None:
    """Generate, and tell seconds from the first call to the last picture, and bytes."""
    side, folder, pictures, steps, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    calls = [call(place, int(steps)) for place in range(int(pictures))]
    print(json.dumps(own(folder, calls) if side == "own" else by_farm(folder, calls)))


def call(place: int, steps: int) -> dict[str, Any]:
    """What the pipeline is called with: a prompt's embeddings by chance, since there is no text encoder."""
    draw = torch.Generator().manual_seed(place)
    return {
        "prompt_embeds": torch.randn((1, 77, 64), generator=draw),
        "guidance_scale": 1.0,
        "num_inference_steps": steps,
        "height": PIXELS,
        "width": PIXELS,
        "generator": draw,
    }


def loaded(folder: str, **components: Any) -> Any:
    """The pipeline, without text encoder and bars."""
    logging.disable_progress_bar()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None, **components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def own(folder: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The pipeline as it is; how long its decodes take is read at its VAE."""
    pipeline, decodes = loaded(folder), list[float]()
    decode = pipeline.vae.decode

    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return decode(*arguments, **options)
        finally:
            decodes.append(time.perf_counter() - began)

    pipeline.vae.decode = timed
    began, cpu = time.perf_counter(), time.process_time()
    for one in calls:
        check(pipeline(**one).images)
    seconds = time.perf_counter() - began
    return told(seconds, seconds, cpu) | {"decode_seconds": decodes}


def by_farm(folder: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The same pipeline without its VAE."""
    pipeline = loaded(folder, vae=None)
    with Farm.from_env() as farm:
        generate = farm.attach(pipeline, vae=VAE)
        began, cpu = time.perf_counter(), time.process_time()
        jobs = [generate(**one) for one in calls]
        free = time.perf_counter() - began
        for job in farm.as_completed(jobs, timeout=SECONDS):
            check(job.images())
        return told(time.perf_counter() - began, free, cpu)


def check(pictures: Any) -> None:
    """Raise unless it is one picture of the right size."""
    if [one.size for one in pictures] != [(PIXELS, PIXELS)] or not isinstance(pictures[0], Image.Image):
        raise RuntimeError(f"expected a picture of {PIXELS} x {PIXELS}, got {pictures}")


def told(seconds: float, free: float, cpu: float) -> dict[str, Any]:
    """Seconds to the last picture, and until the generator is free; its processor's; the most memory it ever had."""
    return {
        "seconds": seconds,
        "free_seconds": free,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    main()
