"""Run the blog post's own functions against an endpoint; by itself, so that an interpreter without vaefarm can.

python client.py FOLDER: reads FOLDER/ask.json ({"demo": URL, "flux": URL}) and the latents demo.npy (n, 4, h, w) and
flux.npy (1, tokens, 64); writes the pixels of what came back, basic.npy, flux_pixels.npy and queue.npy, and what
safetensors was there, said.json. Everything is in float32, the post's `torch.randn`.
"""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors
import torch

#: The post's import, of which safetensors 0.8 has taken the name away, and what takes its place there.
GONE = "from safetensors.torch import _tobytes"
INSTEAD = "_tobytes = lambda tensor, name: tensor.contiguous().view(torch.uint8).numpy().tobytes()"

Blocks = list[str]


def blocks(change: bool) -> Blocks:
    """The post's blocks: basic, Flux, queueing's imports and functions; with its one line changed, or as they are."""
    found = re.findall(r"```python\n(.*?)```", Path(__file__).with_name("remote_vae.txt").read_text(), re.DOTALL)
    return [block.replace(GONE, INSTEAD) for block in found] if change else found


def decode_one(block: str, endpoint: str, latents: torch.Tensor, **size: int) -> np.ndarray:
    """The pixels of what a block's `remote_decode` gives."""
    names: dict[str, Any] = {}
    exec(block, names)
    names["ENDPOINT"] = endpoint
    return np.asarray(names["remote_decode"](latents, **size))


def decode_queued(imports: str, functions: str, endpoint: str, latents: torch.Tensor) -> np.ndarray:
    """The pixels of what the post's thread displays, in its order, in a notebook that is none."""
    shown: list[np.ndarray] = []
    notebook: Any = ModuleType("IPython.display")
    notebook.display = lambda image: shown.append(np.asarray(image))
    sys.modules |= {"IPython": ModuleType("IPython"), "IPython.display": notebook}
    names: dict[str, Any] = {"ENDPOINT": endpoint}
    exec(imports, names)
    exec(functions, names)
    for one in latents:
        names["decode"](latent=one[None])
    names["q"].put(None)
    names["thread"].join()
    return np.stack(shown)


def main(folder: Path, change: bool) -> None:
    """Run all three."""
    basic, flux, imports, functions = blocks(change)
    ask = json.loads((folder / "ask.json").read_text())
    latents, packed = (torch.from_numpy(np.load(folder / f"{vae}.npy")) for vae in ("demo", "flux"))
    np.save(folder / "basic.npy", decode_one(basic, ask["demo"], latents[:1]))
    np.save(folder / "flux_pixels.npy", decode_one(flux, ask["flux"], packed, height=64, width=64))
    np.save(folder / "queue.npy", decode_queued(imports, functions, ask["demo"], latents))
    said = {"safetensors": safetensors.__version__, "unchanged": not change}
    (folder / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--change" in sys.argv)
