"""The farm's picture is the pipeline's own, bit for bit, from the latents that the pipeline returns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import Serve
from tests.parity.case import Case
from tests.parity.pipelines import BUILDERS, case

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.local_decoder import LocalDecoder

#: Cases whose pipelines decode float16 latents in float32, since the VAE's config asks for it.
UPCAST = {"stable-diffusion-xl", "playground", "kolors", "aura-flow"}

#: Cases that take a CPU a minute in float16.
SLOW = {"hunyuan-image"}

CASES = [
    (name, dtype)
    for name in BUILDERS
    for dtype in ("float32", "bfloat16", "float16")
    if dtype != "float16" or name not in SLOW
]


@pytest.fixture(params=CASES, ids=" ".join)
def one(request: pytest.FixtureRequest) -> Case:
    name, dtype = request.param
    return case(name).in_dtype(getattr(torch, dtype))


@pytest.fixture
def catalogue(one: Case, tmp_path: Path) -> Path:
    """An operator's catalogue that points the built-in entry at the pipeline's VAE."""
    one.vae.save_pretrained(tmp_path / "vae")
    fields = {"path": str(tmp_path / "vae"), **one.entry}
    path = tmp_path / "catalogue.toml"
    path.write_text(
        f"[vaes.{one.vae_id}]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
    )
    return path


def test_the_farms_picture_is_the_pipelines(one: Case, farm: Farm, settings: Settings, serve: Serve) -> None:
    job = farm.submit(one.latents(), vae=one.vae_id, reproducible=True, **one.options)
    serve(LocalDecoder([Catalogue.load(settings.catalogue)[one.vae_id]], "cpu"))

    result, pictures = job.result(timeout=10), one.pictures()
    assert len(result.images) == len(pictures)
    for image, picture in zip(result.images, pictures, strict=True):
        assert np.array_equal(np.asarray(image), picture)
    dtype = one.entry["cpu_dtype"]
    assert result.report.dtype == ("float32" if dtype == "float16" and one.name in UPCAST else dtype)
