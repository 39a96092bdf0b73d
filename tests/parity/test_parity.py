"""The farm's picture is the pipeline's own, bit for bit, from the latents that the pipeline returns."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Serve
from tests.parity.case import Case
from tests.parity.pipelines import BUILDERS, case

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.local_decoder import LocalDecoder


@pytest.fixture(params=BUILDERS)
def one(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


@pytest.fixture
def catalogue(one: Case, tmp_path: Path) -> Path:
    """An operator's catalogue that points the built-in entry at the pipeline's VAE."""
    one.vae.save_pretrained(tmp_path / "vae")
    fields = {"path": str(tmp_path / "vae"), **one.entry}
    lines = [f"[vaes.{json.dumps(one.vae_id)}]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())]
    path = tmp_path / "catalogue.toml"
    path.write_text("\n".join(lines))
    return path


def test_the_farms_picture_is_the_pipelines(one: Case, farm: Farm, settings: Settings, serve: Serve) -> None:
    job = farm.submit(one.latents(), vae=one.vae_id, reproducible=True, **one.options)
    serve(LocalDecoder([Catalogue.load(settings.catalogue)[one.vae_id]], "cpu"))

    images = job.result(timeout=10).images
    pictures = one.pictures()
    assert len(images) == len(pictures)
    for image, picture in zip(images, pictures, strict=True):
        assert np.array_equal(np.asarray(image), picture)
