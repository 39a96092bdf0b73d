"""The demo's generation process: it makes latents, here by reading them, and pushes each onto the queue.

`python -m vaefarm_producer.local.generate FOLDER` prints each job's id as it is submitted.
"""

import sys
from pathlib import Path

from vaefarm_shared import latents
from vaefarm_shared.checks import MAX_LATENT_BYTES

from ..farm import Farm


def generate(folder: Path) -> None:
    """Submit each latent of a folder to the VAE `demo`, printing `ID NAME` lines."""
    with Farm.from_env() as farm:
        for path in sorted(folder.glob("*.safetensors")):
            tensor, _ = latents.read_file(path, MAX_LATENT_BYTES)
            job = farm.submit(tensor, vae="demo", metadata={"name": path.stem})
            print(job.id, path.stem, flush=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
