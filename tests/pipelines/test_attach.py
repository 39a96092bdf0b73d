"""`Farm.attach` on real pipelines: their calls return jobs, whose pictures are the pipelines' own, bit for bit."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DPMSolverMultistepScheduler, FluxPipeline
from tests.conftest import eventually
from tests.parity.case import Case
from tests.parity.pipelines import BUILDERS, case
from tests.pipelines.conftest import PATIENCE, FarmOf, sampled
from tests.pipelines.variants import VARIANTS
from tests.worker.ui_readers import a1111, parameters

from vaefarm_producer import Farm, FarmVAE, InvalidLatents, InvalidOption, Job, UnknownVae
from vaefarm_producer.call_metadata import call_metadata, fitting, model_of
from vaefarm_producer.pipeline_kinds import KINDS, VIDEO_KINDS
from vaefarm_shared.job import MAX_METADATA_CHARACTERS

#: What a case says of its latents' last step is not what the pipeline returns.
TEXT_TO_IMAGE = [name for name in BUILDERS if not case(name).from_callback]

#: Pipelines whose latents lie channels last in memory, as their image processor left the picture: their own VAE adds in
#: another order than one that gets the same values as they travel.
CHANNELS_LAST = {"sd-img2img", "xl-img2img"}


def attached(farm: Farm, one: Case, **options: Any) -> Job:
    """The job of a call with the case's arguments."""
    one.pipeline.set_progress_bar_config(disable=True)
    generate = farm.attach(one.pipeline, vae=one.vae_id, **options)
    return generate(**one.arguments, generator=torch.Generator().manual_seed(7))


def assert_same(job: Job, pictures: list[np.ndarray]) -> None:
    images = job.images(PATIENCE)
    assert len(images) == len(pictures)
    for image, picture in zip(images, pictures, strict=True):
        assert np.array_equal(np.asarray(image), picture)


@pytest.mark.parametrize("name", sampled(TEXT_TO_IMAGE))
def test_its_pictures_are_the_pipelines_though_that_may_have_no_vae(name: str, farm_of: FarmOf) -> None:
    one = case(name)
    job = attached(farm_of(one), one if one.needs_vae else one.without_vae(), reproducible=True)

    assert_same(job, one.pictures())


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in CHANNELS_LAST])
def test_so_are_those_of_pipelines_that_begin_with_a_picture(name: str, farm_of: FarmOf) -> None:
    one = VARIANTS[name]()

    assert_same(attached(farm_of(one), one, reproducible=True), one.pictures())


@pytest.mark.parametrize("name", sorted(CHANNELS_LAST))
def test_latents_that_lie_channels_last_in_memory_are_decoded_as_others_of_the_same_values(
    name: str, farm_of: FarmOf
) -> None:
    one = VARIANTS[name]()
    job = attached(farm_of(one), one, reproducible=True)

    latents = one.latents()
    assert latents.is_contiguous(memory_format=torch.channels_last)
    assert not latents.is_contiguous()
    with torch.no_grad():
        decoded = one.vae.decode(latents.contiguous() / one.vae.config.scaling_factor).sample
    assert_same(job, [np.asarray(image) for image in one.pipeline.image_processor.postprocess(decoded)])
    for image, picture in zip(job.images(), one.pictures(), strict=True):
        assert np.abs(np.asarray(image).astype(int) - picture).max() <= 1


@pytest.mark.parametrize("farm_settings", ["http"], indirect=True)
def test_over_a_gateway_as_well(farm_of: FarmOf) -> None:
    one = case("flux")

    assert_same(attached(farm_of(one), one.without_vae(), reproducible=True), one.pictures())


def test_every_known_class_is_one_of_a_case() -> None:
    tested = [*(case(name) for name in BUILDERS), *(build() for build in VARIANTS.values())]

    of_pictures = {name for name, kind in KINDS.items() if kind not in VIDEO_KINDS}
    assert {type(one.pipeline).__name__ for one in tested} == of_pictures


def test_a_call_returns_while_its_latents_wait_and_they_are_decoded_while_the_next_are_generated(
    farm_of: FarmOf,
) -> None:
    one = case("stable-diffusion").without_vae()
    one.pipeline.set_progress_bar_config(disable=True)
    farm = farm_of(case("stable-diffusion"))
    farm.pause("sd-v1")
    generate = farm.attach(one.pipeline, vae="sd-v1")
    first = generate(**one.arguments)
    assert first.status() == "queued"
    farm.resume("sd-v1")

    def held(_pipeline: Any, _step: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
        eventually("the first is decoded while the second is not generated", lambda: first.status() == "finished")
        return {}

    second = generate(**one.arguments, callback_on_step_end=held)

    assert {job.id for job in farm.as_completed([first, second], timeout=PATIENCE)} == {first.id, second.id}


def test_options_are_the_jobs_and_positional_arguments_the_pipelines(farm_of: FarmOf) -> None:
    one = case("stable-diffusion").without_vae()
    options = {"metadata": {"prompt": "a cat"}, "image_format": "webp", "job_id": "order-17"}
    generate = farm_of(case("stable-diffusion")).attach(one.pipeline, vae="sd-v1", **options)  # type: ignore[arg-type]
    more = {name: value for name, value in one.arguments.items() if name not in ("height", "width")}

    job = generate(None, 64, 128, **more)

    result = job.result(PATIENCE)
    assert job.id == "order-17"
    assert result.record.metadata["prompt"] == "a cat"
    assert [(image.format, image.size) for image in result.images] == [("WEBP", (128, 64))] * 2


@pytest.mark.parametrize("name", ["stable-diffusion", "flux"])
def test_a_call_is_recorded_in_its_picture_with_the_seed_of_a_generator_that_is_new(name: str, farm_of: FarmOf) -> None:
    one = case(name).without_vae()
    generator = torch.Generator().manual_seed(7)
    generate = farm_of(case(name)).attach(one.pipeline, vae=one.vae_id, metadata={"prompt": "a cat, sitting"})

    first, second = (generate(**one.arguments, generator=generator).result(PATIENCE) for _ in range(2))

    steps = str(one.arguments["num_inference_steps"])
    scheduler = type(one.pipeline.scheduler).__name__
    told = first.record.metadata
    assert (told["num_inference_steps"], told["scheduler"], told["seed"]) == (steps, scheduler, "7")
    assert (told["prompt"], told["guidance_scale"]) == ("a cat, sitting", second.record.metadata["guidance_scale"])
    assert "seed" not in second.record.metadata
    for place, data in enumerate(first.data):
        read = a1111(parameters(data))
        assert (read["Prompt"], read["Steps"], read["Seed"]) == ("a cat, sitting", steps, "7")
        assert (read["Batch size"], read["Batch pos"]) == (str(len(first.data)), str(place))


def test_a_call_is_not_recorded_where_that_is_not_wanted(farm_of: FarmOf) -> None:
    one = case("stable-diffusion").without_vae()
    generate = farm_of(case("stable-diffusion")).attach(one.pipeline, vae="sd-v1", record_call=False)

    assert generate(**one.arguments).result(PATIENCE).record.metadata == {}


def test_what_a_call_says_is_told_by_diffusers_names_for_each_picture_and_of_no_folder(tmp_path: Path) -> None:
    pipeline = SimpleNamespace(
        scheduler=DPMSolverMultistepScheduler(use_karras_sigmas=True),
        config={"_name_or_path": str(tmp_path / "users" / "bob" / "my-model")},
    )
    seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
    said = {"prompt": ["a cat", "a dog"], "negative_prompt": ["x", "x"], "num_images_per_prompt": 2, "generator": seeds}

    told = call_metadata(pipeline, said | {"guidance_scale": 7.5, "num_inference_steps": 20, "strength": None})

    assert told == {
        "seed": "[0, 1, 2, 3]",
        "prompt": '["a cat", "a cat", "a dog", "a dog"]',
        "negative_prompt": "x",
        "num_inference_steps": "20",
        "guidance_scale": "7.5",
        "scheduler": "DPMSolverMultistepScheduler",
        "use_karras_sigmas": "True",
        "algorithm_type": "dpmsolver++",
        "model": "my-model",
    }
    seeds[1].seed()
    torch.rand(1, generator=seeds[1])
    assert "seed" not in call_metadata(pipeline, said)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-xl-base-1.0"),
        ("gpt2", "gpt2"),
        ("/home/bob/sdxl/", "sdxl"),
        ("~/sdxl", "sdxl"),
        ("../bob/sdxl", "sdxl"),
        ("C:\\Users\\bob\\sdxl", "sdxl"),
        ("", ""),
    ],
)
def test_a_model_is_called_by_its_repository_and_a_folder_by_its_name_alone(name: str, expected: str) -> None:
    assert model_of(name) == expected


def test_a_call_that_says_more_than_a_job_takes_is_recorded_as_far_as_it_goes() -> None:
    most = MAX_METADATA_CHARACTERS
    said = {"prompt": "a" * most, "seed": "7", "half": "\ud800"}

    assert fitting(said) == {"seed": "7", "half": "?"}
    assert fitting(said, {"mine": "x" * (most - 9)}) == {"mine": "x" * (most - 9), "seed": "7"}
    assert fitting({"seed": "7"}, {"seed": "8"}) == {"seed": "8"}


def test_packed_latents_have_the_pipelines_own_size_where_a_call_says_none(farm_of: FarmOf) -> None:
    one = case("flux")
    small = FluxPipeline(**one.pipeline.components)
    small.default_sample_size = 8
    arguments = {name: value for name, value in one.arguments.items() if name not in ("height", "width")}

    job = attached(farm_of(one), replace(one, pipeline=small, arguments=arguments))

    assert [image.size for image in job.images(PATIENCE)] == [(64, 64)] * 2


def test_where_no_size_can_be_known_nothing_is_generated(farm_of: FarmOf, monkeypatch: pytest.MonkeyPatch) -> None:
    one = case("qwen-image-2.1")
    farm = farm_of(one)
    generate = farm.attach(one.pipeline, vae=one.vae_id)
    monkeypatch.setattr(one.pipeline.transformer, "forward", None)

    with pytest.raises(InvalidOption, match="QwenImage21Pipeline was called without height and width"):
        generate(prompt_embeds=one.arguments["prompt_embeds"])


def test_beside_a_picture_no_size_is_guessed(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    one = VARIANTS["flux-img2img"]()
    monkeypatch.setattr(one.pipeline, "check_inputs", None)

    with pytest.raises(InvalidOption, match="FluxImg2ImgPipeline was called without height and width"):
        farm.attach(one.pipeline, vae="flux")(**{**one.arguments, "height": None})


@pytest.mark.parametrize("more", [{"output_type": "pil"}, {"return_dict": False}, {"padding_mask_crop": 8}], ids=str)
def test_what_asks_for_pictures_at_once_is_refused_before_anything_is_generated(
    more: dict[str, Any], farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = VARIANTS["xl-inpaint"]()
    generate = farm.attach(one.pipeline, vae="sdxl")
    monkeypatch.setattr(one.pipeline, "check_inputs", None)

    with pytest.raises(InvalidOption, match=next(iter(more))):
        generate(**one.arguments, **more)


def test_a_pipeline_whose_latents_are_not_known_is_refused_by_name_unless_they_are_told(farm: Farm) -> None:
    unknown = DDPMPipeline(case("stable-diffusion").pipeline.unet, case("stable-diffusion").pipeline.scheduler)

    with pytest.raises(InvalidOption, match="latents of a DDPMPipeline are not known.*FluxPipeline.*='spatial'"):
        farm.attach(unknown, vae="sd-v1")
    with pytest.raises(InvalidOption, match="latents='pixels'; expected 'spatial', 'packed'"):
        farm.attach(unknown, vae="sd-v1", latents="pixels")  # type: ignore[arg-type]
    assert "DDPMPipeline" in repr(farm.attach(unknown, vae="sd-v1", latents="spatial"))


def test_a_class_of_ones_own_is_known_by_the_call_that_it_runs(farm: Farm) -> None:
    class Mine(FluxPipeline):  # type: ignore[misc]
        """The same call."""

    class Other(FluxPipeline):  # type: ignore[misc]
        def __call__(self) -> SimpleNamespace:
            return SimpleNamespace(images=torch.zeros(1, 16, 8, 8))

    farm.attach(Mine(**case("flux").pipeline.components), vae="flux")

    other = Other(**case("flux").pipeline.components)
    with pytest.raises(InvalidOption, match="latents of a Other are not known"):
        farm.attach(other, vae="flux")
    assert farm.attach(other, vae="flux", latents="spatial")().status() == "queued"


def test_latents_of_another_family_are_refused_and_nothing_is_queued(farm: Farm) -> None:
    one = case("stable-diffusion").without_vae()

    with pytest.raises(InvalidLatents, match="VAE 'flux' expects 16"):
        attached(farm, replace(one, vae_id="flux"))
    with pytest.raises(UnknownVae):
        farm.attach(one.pipeline, vae="nobody")
    with pytest.raises(InvalidOption, match="option 'output_type' is not known"):
        farm.attach(one.pipeline, vae="sd-v1", output_type="pt")  # type: ignore[call-arg]
    assert sum(depth.queued for depth in farm.queues()) == 0


def test_flux2_klein_needs_its_vae_or_a_farms_in_its_place(farm_of: FarmOf) -> None:
    one = case("flux2-klein-denormalised")
    farm = farm_of(one)

    with pytest.raises(InvalidOption, match="Flux2KleinPipeline makes its latents with its VAE's statistics"):
        farm.attach(one.without_vae().pipeline, vae="flux2")

    without = one.without_vae()
    without.pipeline.vae = FarmVAE(farm, "flux2")
    assert_same(attached(farm, without, reproducible=True), one.pictures())
