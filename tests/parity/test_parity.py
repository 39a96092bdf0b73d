"""The farm's picture is the pipeline's own from the latents that the pipeline returns: bit for bit where the job is
reproducible, and within the tolerance of its dtype otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import Serve
from tests.parity.case import Case
from tests.parity.pipelines import BUILDERS, case

from vaefarm_producer import Farm, Job
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.self_test import TOLERANCES

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
    assert result.report.switches == ()
    dtype = one.entry["cpu_dtype"]
    assert result.report.dtype == ("float32" if dtype == "float16" and one.name in UPCAST else dtype)


@pytest.mark.parametrize("one", [case for case in CASES if case[1] != "float16"], ids=" ".join, indirect=True)
def test_a_picture_that_need_not_be_reproducible_is_within_the_tolerance(
    one: Case, farm: Farm, settings: Settings, serve: Serve
) -> None:
    entry = Catalogue.load(settings.catalogue)[one.vae_id]
    latents = one.latents()
    job = farm.submit(latents, vae=one.vae_id, **one.options)
    serve(LocalDecoder([entry], "cpu"))
    made, dtype, pictures = stacked(job), job.result().report.dtype, np.stack(one.pictures())

    if dtype == "bfloat16":
        # These VAEs are loud and narrow: roundings show as many levels. They are no more than the pipeline's own.
        wide = farm.submit(latents, vae=one.vae_id, reproducible=True, **one.options)
        serve(LocalDecoder([entry.model_copy(update={"cpu_dtype": "float32"})], "cpu"))
        assert deviation(made, stacked(wide)) <= 1.25 * deviation(pictures, stacked(wide))
    else:
        assert np.abs(made.astype(int) - pictures).max() <= TOLERANCES[dtype]


def stacked(job: Job) -> np.ndarray:
    return np.stack([np.asarray(image) for image in job.result(timeout=10).images])


def deviation(made: np.ndarray, exact: np.ndarray) -> float:
    """In levels of 255, root of the mean square."""
    return float(np.sqrt(np.mean((made.astype(float) - exact) ** 2)))
