"""The blog post's own functions, the first generation of clients, against a running gateway, in a process of their own.

With today's safetensors their import is changed, whose name 0.8 took away. `make old-clients` runs them to the letter,
with an older safetensors before this environment's.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.gateway.blog import client
from tests.gateway.hf_farm import HfFarm

#: Where `make old-clients` put an older safetensors.
OLD = os.environ.get("OLD_CLIENTS")

LATENTS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
PACKED = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(4))


def run(farm: HfFarm, folder: Path, *arguments: str, path: str | None = None) -> dict[str, Any]:
    """Run the post's functions; what they said of themselves."""
    (folder / "ask.json").write_text(json.dumps({vae: farm.vae(vae) for vae in ("demo", "flux")}))
    np.save(folder / "demo.npy", LATENTS.numpy())
    np.save(folder / "flux.npy", PACKED.numpy())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = path
    command = [sys.executable, str(Path(client.__file__)), str(folder), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads((folder / "said.json").read_text())
    return said


def check(farm: HfFarm, folder: Path) -> None:
    """What came back is what `Farm` gives, as the JPEG that Pillow makes of it."""
    assert np.array_equal(np.load(folder / "basic.npy"), jpeg(farm, folder, LATENTS[:1], "demo"))
    packed = jpeg(farm, folder, PACKED, "flux", height=64, width=64)
    assert np.array_equal(np.load(folder / "flux_pixels.npy"), packed)
    shown = np.load(folder / "queue.npy")
    assert len(shown) == len(LATENTS)
    for one, latents in zip(shown, LATENTS, strict=True):
        assert np.array_equal(one, jpeg(farm, folder, latents[None], "demo"))


def jpeg(farm: HfFarm, folder: Path, latents: torch.Tensor, vae: str, **size: Any) -> np.ndarray:
    path = folder / "expected.jpg"
    farm.farm.submit(latents, vae=vae, **size).image(30).save(path)
    return np.asarray(Image.open(path))


def test_the_posts_functions_run_with_the_one_line_changed_that_safetensors_took_away(
    hf_farm: HfFarm, tmp_path: Path
) -> None:
    assert run(hf_farm, tmp_path, "--change")["unchanged"] is False
    check(hf_farm, tmp_path)


def test_one_line_is_changed_and_no_other() -> None:
    for as_it_is, changed in zip(client.blocks(False), client.blocks(True), strict=True):
        lines = list(zip(as_it_is.splitlines(), changed.splitlines(), strict=True))
        assert [one for one, other in lines if one != other] == ([client.GONE] if client.GONE in as_it_is else [])


@pytest.mark.skipif(OLD is None, reason="`make old-clients` runs it, with a safetensors before 0.8")
def test_the_posts_functions_run_to_the_letter(hf_farm: HfFarm, tmp_path: Path) -> None:
    said = run(hf_farm, tmp_path, path=OLD)
    assert re.match(r"0\.[0-7]\.", said["safetensors"])
    assert said["unchanged"] is True
    check(hf_farm, tmp_path)
