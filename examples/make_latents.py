"""Latents to try a batch with, without a model: blends of the demo's own, a safetensors file each.

vaefarm up --vaes demo
python examples/make_latents.py latents --count 1000
vaefarm submit latents --vae demo --out pictures --resume
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from vaefarm_producer.local.processes import worker_folder


def main(argv: list[str] | None = None) -> None:
    """Write each file with what a picture should be known by: its prompt and seed."""
    options = parse(argv)
    shapes = defaultdict(list)
    for path in sorted((worker_folder("demo") / "latents").iterdir()):
        shapes[load_file(path)["latents"].shape].append(path)
    several = [paths for paths in shapes.values() if len(paths) > 1]
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seed, options.seed + options.count):
        random = np.random.default_rng(seed)
        paths = several[random.integers(len(several))]
        one, other = (paths[place] for place in random.choice(len(paths), 2, replace=False))
        share = random.random()
        latents = share * load_file(one)["latents"] + (1 - share) * load_file(other)["latents"]
        told = {"prompt": f"{share:.0%} {one.stem}, {1 - share:.0%} {other.stem}", "seed": str(seed)}
        save_file({"latents": latents.astype(np.float16)}, options.out / f"{seed:06d}.safetensors", told)
    print(f"{options.count} files in {options.out}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next ones count up")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
