"""What files of latents say of themselves goes into the pictures of `vaefarm submit`, and into the jobs' records."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tests.conftest import Work
from tests.producer.conftest import Call
from tests.worker.ui_readers import a1111, parameters

from vaefarm_producer import Farm
from vaefarm_producer.latent_files import prepare_file
from vaefarm_shared.job import MAX_METADATA_CHARACTERS

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
GRAPH = json.dumps({"1": {"class_type": "KSampler"}})


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_a_folders_pictures_have_what_its_files_say(
    vaefarm: Call, farm_url: str, work: Work, tmp_path: Path, image_format: str
) -> None:
    source, out = tmp_path / "latents", tmp_path / "out"
    source.mkdir()
    told = {f"{n}": {"prompt": f"cat {n}, 猫", "seed": str(n), "steps": "4", "format": "pt"} for n in range(2)}
    for stem, metadata in told.items():
        save_file({"latents": LATENTS}, source / f"{stem}.safetensors", metadata=metadata)
    work()

    done = vaefarm("submit", source, "--vae", "demo", "--out", out, "--format", image_format, url=farm_url)

    assert done.returncode == 0, done.stderr
    for line in (out / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        read = a1111(parameters((out / entry["output"]).read_bytes()))
        assert (read["Prompt"], read["Seed"], read["Steps"]) == (entry["prompt"], entry["seed"], "4")
        assert "format" not in read


def test_files_one_by_one_as_well_unless_they_are_kept_out(
    vaefarm: Call, farm_url: str, work: Work, tmp_path: Path
) -> None:
    path = tmp_path / "one.safetensors"
    save_file({"latents": LATENTS}, path, metadata={"prompt": "a cat"})
    work()

    for more, expected in (((), "a cat"), (("--no-embed-metadata",), None)):
        done = vaefarm("submit", path, "--vae", "demo", "--out", tmp_path, *more, url=farm_url)
        assert done.returncode == 0, done.stderr
        info = Image.open(io.BytesIO((tmp_path / "one.png").read_bytes())).info
        assert (a1111(str(info["parameters"]))["Prompt"] if "parameters" in info else None) == expected


def test_the_job_has_them_as_far_as_a_job_takes_them(farm: Farm, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    metadata = {"workflow": "x" * MAX_METADATA_CHARACTERS, "prompt": GRAPH, "seed": "7"}
    save_file({"latents": LATENTS}, path, metadata=metadata)

    job, told = prepare_file(farm, path, "demo", None, None, {"embed_metadata": False})

    assert told == metadata
    assert job.spec.metadata == {"prompt": GRAPH, "seed": "7"}
    assert not job.spec.embed_metadata


def test_a_file_that_says_nothing_makes_the_job_that_it_made(farm: Farm, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_file({"latents": LATENTS}, path, metadata={"format": "pt"})

    job, _ = prepare_file(farm, path, "demo", None, None, {})

    assert job.spec.request_hash == farm.prepare(LATENTS, vae="demo").spec.request_hash
