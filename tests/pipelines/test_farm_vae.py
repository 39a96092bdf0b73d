"""`FarmVAE` in the place of real pipelines' VAE: unchanged calls, whose pictures the farm decodes.

Its bound: raw tensors travel as float16, so values within [-1, 1] are off by half of its last place at most,
2**-12, and pictures by a level of 255.
"""

import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import redis
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from diffusers.utils.torch_utils import get_module_execution_device
from tests.parity.case import Case
from tests.parity.pipelines import BUILDERS, case
from tests.pipelines.conftest import PATIENCE, FarmOf, sampled
from tests.pipelines.variants import VARIANTS, picture

from vaefarm_producer import Farm, FarmVAE, InvalidLatents, InvalidOption, JobFailed, UnknownVae, WaitTimeout
from vaefarm_shared import keys

#: What a raw tensor's trip through float16 may change of values within [-1, 1], halved by the step to [0, 1].
BOUND = 2**-13 + 2**-20

NAMES = [name for name in BUILDERS if not case(name).from_callback]


def with_farm(one: Case, farm: Farm, **options: Any) -> Case:
    """The case with a farm's VAE in the place of its pipeline's own."""
    pipeline = type(one.pipeline)(**one.pipeline.components)
    pipeline.vae = FarmVAE(farm, one.vae_id, timeout=PATIENCE, **options)
    return replace(one, pipeline=pipeline)


@pytest.mark.parametrize("name", sampled([*NAMES, *VARIANTS]))
def test_a_pipelines_pictures_are_its_own_within_the_bound(name: str, farm_of: FarmOf) -> None:
    one = case(name) if name in BUILDERS else VARIANTS[name]()
    farmed = with_farm(one, farm_of(one), reproducible=True)

    tensors, own = farmed.images("pt"), one.images("pt")

    assert tensors.shape == own.shape
    # A pipeline that resizes its pictures afterwards adds up roundings; one that encodes a picture has two of them.
    rounded_twice = one.name.endswith("binned") or name in VARIANTS
    assert (tensors - own).abs().max() <= (2 * BOUND if rounded_twice else BOUND)


@pytest.mark.parametrize(("name", "dtype"), [("stable-diffusion", "float16"), ("flux", "bfloat16")])
def test_pictures_in_half_precision_are_the_pipelines_own(name: str, dtype: str, farm_of: FarmOf) -> None:
    one = case(name).in_dtype(getattr(torch, dtype))
    farmed = with_farm(one, farm_of(one), reproducible=True, dtype=getattr(torch, dtype))

    assert farmed.pipeline.dtype == one.pipeline.dtype
    assert np.array_equal(farmed.pictures(), one.pictures())


def test_xl_in_float16_is_decoded_in_float32_by_the_worker_as_the_pipeline_does(farm_of: FarmOf) -> None:
    one = case("stable-diffusion-xl").in_dtype(torch.float16)
    farmed = with_farm(one, farm_of(one), reproducible=True, dtype=torch.float16)

    assert np.abs(np.subtract(farmed.pictures(), one.pictures(), dtype=int)).max() <= 1


@pytest.mark.parametrize("farm_settings", ["http"], indirect=True)
def test_over_a_gateway_pictures_are_within_a_level(farm_of: FarmOf) -> None:
    one = VARIANTS["xl-img2img"]()
    farmed = with_farm(one, farm_of(one))

    assert np.abs(np.subtract(farmed.pictures(), one.pictures(), dtype=int)).max() <= 1


def test_it_takes_the_vaes_place_in_the_constructor_in_from_pretrained_and_in_an_image_to_image_pipeline(
    farm_of: FarmOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = case("stable-diffusion")
    vae = FarmVAE(farm_of(one), "sd-v1", timeout=PATIENCE)
    one.pipeline.save_pretrained(tmp_path / "pipeline")
    without = {name: value for name, value in one.pipeline.components.items() if value is None}

    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", vae=vae, **without)
    constructed = StableDiffusionPipeline(**(one.pipeline.components | {"vae": vae}), requires_safety_checker=False)
    image_to_image = AutoPipelineForImage2Image.from_pipe(loaded)

    assert "Expected types for vae" in caplog.text
    assert isinstance(image_to_image, StableDiffusionImg2ImgPipeline)
    assert loaded.vae is constructed.vae is image_to_image.vae is vae
    for pipeline in (loaded, constructed):
        assert pipeline.vae_scale_factor == 8
        assert np.abs(np.subtract(replace(one, pipeline=pipeline).pictures(), one.pictures(), dtype=int)).max() <= 1


def test_it_is_moved_and_cast_with_its_pipeline(farm: Farm) -> None:
    pipeline = deepcopy(case("stable-diffusion").pipeline)
    pipeline.vae = FarmVAE(farm, "sd-v1")
    assert (pipeline.vae.dtype, pipeline.vae.device.type) == (torch.float32, "cpu")

    pipeline.to(torch.bfloat16)
    assert (pipeline.vae.dtype, pipeline.dtype) == (torch.bfloat16, torch.bfloat16)
    pipeline.vae.to("meta").half().eval()
    assert (pipeline.vae.dtype, pipeline.vae.device.type) == (torch.float16, "meta")
    assert next(iter(pipeline.vae.post_quant_conv.parameters())).dtype == torch.float16
    assert deepcopy(pipeline.vae).dtype == torch.float16


@pytest.mark.parametrize("how", ["whole", "layers", "groups"])
def test_it_may_be_offloaded_as_any_module(how: str, farm_of: FarmOf) -> None:
    vae = FarmVAE(farm_of(case("stable-diffusion")), "sd-v1", timeout=PATIENCE, dtype=torch.float16)
    if how == "whole":
        vae, _ = accelerate.cpu_offload_with_hook(vae, "cpu")
    elif how == "layers":
        accelerate.cpu_offload(vae, "cpu")
    else:
        vae.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")

    sample = vae.decode(torch.zeros(1, 4, 8, 8, dtype=torch.float16)).sample

    assert (sample.dtype, sample.device.type, sample.shape) == (torch.float16, "cpu", (1, 3, 64, 64))
    assert get_module_execution_device(vae).type == "cpu"


def test_what_it_leaves_to_the_workers_it_says(farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
    vae = FarmVAE(farm, "sd-v1")

    with caplog.at_level(logging.WARNING, "vaefarm_producer"):
        vae.enable_tiling()
        vae.enable_slicing()
        vae.disable_tiling()
        vae.disable_slicing()

    assert [record.getMessage().split()[0] for record in caplog.records] == ["tiles", "slices"]


def test_a_pipeline_with_it_is_not_saved(farm: Farm, tmp_path: Path) -> None:
    one = case("stable-diffusion")
    pipeline = StableDiffusionPipeline(**(one.pipeline.components), requires_safety_checker=False)
    pipeline.vae = FarmVAE(farm, "sd-v1")

    with pytest.raises(InvalidOption, match="FarmVAE has no weights to save; put the pipeline's own VAE back"):
        pipeline.save_pretrained(tmp_path / "pipeline")
    with pytest.raises(InvalidOption, match="FarmVAE has no weights to load"):
        FarmVAE.from_pretrained("stabilityai/sd-vae-ft-mse")


def test_options_that_are_no_jobs_and_vaes_that_nobody_knows_are_refused(farm: Farm) -> None:
    with pytest.raises(InvalidOption, match="option 'output_type' is not known"):
        FarmVAE(farm, "sd-v1", output_type="pil")  # type: ignore[call-arg]
    with pytest.raises(UnknownVae):
        FarmVAE(farm, "nobody")


def jobs_of(connection: redis.Redis) -> list[Any]:
    """The status of each job that has a record."""
    return [connection.hget(key, "status") for key in connection.keys(keys.job("*"))]


def test_its_jobs_leave_nothing_on_the_farm(farm_of: FarmOf, connection: redis.Redis) -> None:
    one = case("stable-diffusion")
    vae = FarmVAE(farm_of(one), "sd-v1", timeout=PATIENCE)

    assert vae.decode(torch.zeros(2, 4, 8, 8)).sample.shape == (2, 3, 64, 64)
    assert vae.encode(torch.zeros(1, 3, 64, 64))[0].mode().shape == (1, 4, 8, 8)

    assert b"finished" not in jobs_of(connection)


def test_a_job_that_is_waited_for_too_long_is_discarded_and_what_is_not_finite_never_queued(farm: Farm) -> None:
    with pytest.raises(WaitTimeout):
        FarmVAE(farm, "sd-v1", timeout=0.05).decode(torch.zeros(1, 4, 8, 8))
    assert sum(depth.queued for depth in farm.queues()) == 0
    with pytest.raises(InvalidLatents, match="NaN"):
        FarmVAE(farm, "sd-v1").decode(torch.full((1, 4, 8, 8), torch.nan))


def test_a_failed_job_is_kept_with_its_reason(farm_of: FarmOf) -> None:
    farm = farm_of(case("stable-diffusion"))

    with pytest.raises(JobFailed, match="NaN or Inf"):
        FarmVAE(farm, "sd-v1", timeout=PATIENCE).decode(torch.full((1, 4, 8, 8), 3e38))

    assert len(list(farm.failed("sd-v1"))) == 1


@pytest.mark.parametrize("advanced", [False, True], ids=["fresh", "advanced"])
def test_a_posterior_is_sampled_as_the_vaes_own_from_a_fresh_generator_and_the_same_each_time_from_another(
    advanced: bool, farm_of: FarmOf
) -> None:
    one = case("stable-diffusion")
    vae = FarmVAE(farm_of(one), "sd-v1", timeout=PATIENCE, reproducible=True)
    images = StableDiffusionImg2ImgPipeline(**one.pipeline.components).image_processor.preprocess(picture())

    def drawn(encoder: Any) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(11)
        if advanced:
            torch.randn(3, generator=generator)
        with torch.no_grad():
            return encoder.encode(images).latent_dist.sample(generator), torch.randn(4, generator=generator)

    (latents, after), (own, own_after) = drawn(vae), drawn(one.vae)
    scaled = own * one.vae.config.scaling_factor
    if advanced:
        assert torch.equal(latents, drawn(vae)[0])
        assert not torch.allclose(latents, scaled)
        assert not torch.equal(latents, vae.encode(images).latent_dist.sample(torch.Generator().manual_seed(11)))
    else:
        assert torch.allclose(latents, scaled, atol=1e-5)
        assert torch.equal(after, own_after)


def test_without_a_generator_samples_differ(farm_of: FarmOf) -> None:
    vae = FarmVAE(farm_of(case("stable-diffusion")), "sd-v1", timeout=PATIENCE)
    posterior = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist

    assert not torch.equal(posterior.sample(), posterior.sample())
    assert torch.equal(posterior.mode(), posterior.mode())


def test_a_vae_of_videos_is_refused_with_what_to_use(farm: Farm) -> None:
    with pytest.raises(InvalidOption, match=r"'wan' makes videos: use farm.attach\(pipe, vae='wan'\)"):
        FarmVAE(farm, "wan")
