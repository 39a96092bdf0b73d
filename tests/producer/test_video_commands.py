"""`vaefarm submit` of videos: what their decode may be told has flags, as diffusers names it."""

from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from safetensors.torch import save_file
from tests.producer.test_commands import vaefarm

from vaefarm_shared import keys
from vaefarm_shared.job import JobSpec

#: Latents of nine frames of LTX-Video, and of three of Stable Video Diffusion.
LTX, SVD = torch.zeros(1, 128, 2, 2, 2), torch.zeros(1, 3, 4, 4, 4)


@pytest.mark.parametrize(
    ("vae", "latents", "flags", "said"),
    [
        (
            *("ltx-video-0-9-1", LTX),
            ["--decode-timestep", "0.05", "--decode-noise-scale", "0.025", "--seed", "7"],
            {"decode_timestep": 0.05, "decode_noise_scale": 0.025, "seed": 7},
        ),
        ("svd", SVD, ["--decode-chunk-size", "2"], {"decode_chunk_size": 2}),
    ],
    ids=["ltx", "svd"],
)
def test_what_a_decode_is_told_is_the_jobs(
    farm_url: str,
    connection: redis.Redis,
    tmp_path: Path,
    vae: str,
    latents: torch.Tensor,
    flags: list[str],
    said: dict[str, Any],
) -> None:
    save_file({"latents": latents}, tmp_path / "clip.safetensors")

    done = vaefarm("submit", tmp_path / "clip.safetensors", "--vae", vae, "--no-wait", *flags, url=farm_url)

    assert done.returncode == 0, done.stderr
    spec = JobSpec.from_json(connection.hget(keys.job(done.stdout.strip()), "spec") or b"")
    assert {name: getattr(spec, name) for name in said} == said


def test_what_a_decode_cannot_be_told_is_one_line(farm_url: str, tmp_path: Path) -> None:
    save_file({"latents": SVD}, tmp_path / "clip.safetensors")
    say = ("submit", tmp_path / "clip.safetensors", "--vae", "svd", "--no-wait")

    done = vaefarm(*say, "--decode-timestep", "0.05", url=farm_url)

    assert done.returncode == 2
    assert "decode_timestep" in done.stderr
    assert len(done.stderr.splitlines()) == 1
