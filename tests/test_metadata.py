"""Metadata from a submit to the picture, by processes that meet over Redis, and over a gateway."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Serve, StartWorker
from tests.worker.ui_readers import a1111, parameters, xmp_properties

from vaefarm_producer import Farm
from vaefarm_shared import latents as latent_bytes
from vaefarm_shared.picture_files import read_picture_file
from vaefarm_shared.settings import Settings

LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
METADATA = {
    "prompt": 'a cat, "sitting"\n猫: (on a mat:1.2)',
    "negative_prompt": "blurry",
    "seed": "7",
    "num_inference_steps": "20",
    "order": "A/17",
}


@pytest.fixture
def farm(farm_settings: Settings) -> Iterator[Farm]:
    """A farm over Redis, and over a gateway."""
    with Farm(settings=farm_settings) as one:
        yield one


@pytest.mark.slow
def test_the_picture_of_each_format_and_the_record_agree(farm: Farm, start_worker: StartWorker) -> None:
    start_worker()
    formats: list[dict[str, Any]] = [{"image_format": name} for name in ("png", "jpeg", "webp")]
    jobs = [farm.submit(LATENTS, vae="demo", metadata=METADATA, **form) for form in formats]
    plain = [farm.submit(LATENTS, vae="demo", reproducible=True, **form) for form in formats]
    same = [farm.submit(LATENTS, vae="demo", reproducible=True, metadata=METADATA, **form) for form in formats]

    for job in jobs:
        result = job.result(timeout=60)
        (data,) = result.data
        read = a1111(parameters(data))
        assert result.record.metadata == METADATA == json.loads(xmp_properties(data)["metadata"])
        assert (read["Prompt"], read["Negative prompt"]) == (METADATA["prompt"], "blurry")
        assert (read["Seed"], read["Steps"], read["order"]) == ("7", "20", "A/17")
        assert (read["Size-1"], read["Size-2"], read["Decoder"]) == ("64", "64", "demo")
        assert read_picture_file(data).width == 64
    for one, other in zip(plain, same, strict=True):
        assert np.array_equal(np.asarray(one.image(60)), np.asarray(other.image(60)))
        assert len(other.result().data[0]) > len(one.result().data[0])


def test_a_job_may_keep_its_metadata_out_of_the_file(farm: Farm, serve: Serve) -> None:
    private = farm.submit(LATENTS, vae="demo", metadata=METADATA, embed_metadata=False)
    plain = farm.submit(LATENTS, vae="demo")
    serve()

    assert private.result(10).data == plain.result(10).data
    assert private.record().metadata == METADATA


def test_an_operator_may_keep_all_out(farm: Farm, serve: Serve, settings: Settings) -> None:
    job, plain = (farm.submit(LATENTS, vae="demo", metadata=one) for one in (METADATA, {}))
    serve(settings=settings.model_copy(update={"embed_metadata": False}))

    assert job.result(10).data == plain.result(10).data
    assert job.record().metadata == METADATA


def test_a_raw_tensor_and_the_latents_of_an_encode_carry_them_too(farm: Farm, serve: Serve) -> None:
    raw = farm.submit(LATENTS, vae="demo", output_type="pt", metadata=METADATA)
    encoded = farm.encode(Image.new("RGB", (64, 64)), vae="demo", metadata=METADATA)
    serve()

    for job in (raw, encoded):
        (data,) = job.result(10).data
        assert json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"] == METADATA
        assert latent_bytes.unpack(data)


def test_each_picture_of_a_job_has_its_own_seed(farm: Farm, serve: Serve) -> None:
    job = farm.submit(torch.cat([LATENTS, -LATENTS]), vae="demo", metadata={"prompt": "a cat", "seed": "[7, 8]"})
    serve()

    assert [a1111(parameters(data))["Seed"] for data in job.result(10).data] == ["7", "8"]
