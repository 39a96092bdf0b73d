"""`FarmDecodeStep` in real modular pipelines: in place of their decoder's block, it gives the job of their pictures."""

from typing import Any, Final

import numpy as np
import pytest
import torch
from diffusers import (
    ClassifierFreeGuidance,
    Flux2AutoBlocks,
    FluxAutoBlocks,
    QwenImageAutoBlocks,
    StableDiffusion3AutoBlocks,
    StableDiffusionXLAutoBlocks,
    ZImageAutoBlocks,
)
from tests.parity.case import Case
from tests.parity.pipelines import case
from tests.pipelines.conftest import PATIENCE, FarmOf

from vaefarm_producer import Farm, FarmDecodeStep, InvalidOption, UnknownVae

BLOCKS: Final[dict[str, Any]] = {
    "flux": FluxAutoBlocks,
    "flux2": Flux2AutoBlocks,
    "qwen-image": QwenImageAutoBlocks,
    "stable-diffusion-3": StableDiffusion3AutoBlocks,
    "stable-diffusion-xl": StableDiffusionXLAutoBlocks,
    "z-image": ZImageAutoBlocks,
}


def blocks_of(one: Case) -> Any:
    """The family's blocks from the denoiser on: embeddings are given, so that no tokenizer is needed."""
    blocks = BLOCKS[one.name]()
    for name in list(blocks.sub_blocks):
        if name not in ("denoise", "decode"):
            del blocks.sub_blocks[name]
    return blocks


def run(one: Case, blocks: Any, output: str, **more: Any) -> Any:
    """What the blocks make of the case's components and arguments."""
    pipeline = blocks.init_pipeline()
    components = {**one.pipeline.components, "guider": ClassifierFreeGuidance(guidance_scale=1.0)}
    wanted = {name: value for name, value in components.items() if name in pipeline.component_names}
    pipeline.update_components(**wanted)
    pipeline.set_progress_bar_config(disable=True)
    known = {parameter.name for parameter in blocks.inputs}
    arguments = {name: value for name, value in one.arguments.items() if name in known}
    return pipeline(**arguments, **more, generator=torch.Generator().manual_seed(7), output=output)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_jobs_pictures_are_the_modular_pipelines_own(name: str, farm_of: FarmOf) -> None:
    one = case(name)
    blocks = blocks_of(one)
    blocks.sub_blocks["decode"] = FarmDecodeStep(farm_of(one), one.vae_id, reproducible=True)

    job, pictures = run(one, blocks, "job"), run(one, blocks_of(one), "images")

    images = job.images(PATIENCE)
    assert len(images) == len(pictures)
    for image, picture in zip(images, pictures, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(picture))


@pytest.mark.parametrize("farm_settings", ["http"], indirect=True)
def test_over_a_gateway_as_well(farm_of: FarmOf) -> None:
    one = case("stable-diffusion-xl")
    blocks = blocks_of(one)
    blocks.sub_blocks["decode"] = FarmDecodeStep(farm_of(one), "sdxl", image_format="webp")

    assert run(one, blocks, "job").images(PATIENCE)[0].format == "WEBP"


def test_a_pipeline_of_which_no_other_block_wants_its_vae_has_none(farm: Farm) -> None:
    blocks = blocks_of(case("flux"))
    assert "vae" in blocks.init_pipeline().component_names

    blocks.sub_blocks["decode"] = FarmDecodeStep(farm, "flux")

    assert "vae" not in blocks.init_pipeline().component_names


def test_packed_latents_are_taken_with_their_size(farm_of: FarmOf) -> None:
    one = case("flux")
    blocks = blocks_of(one)
    del blocks.sub_blocks["denoise"].sub_blocks["unpack_latents"]
    blocks.sub_blocks["decode"] = FarmDecodeStep(farm_of(one), "flux")

    assert [image.size for image in run(one, blocks, "job").images(PATIENCE)] == [(64, 96)] * 2


def test_what_a_farm_does_not_do_is_refused(farm: Farm) -> None:
    one = case("stable-diffusion-xl")
    blocks = blocks_of(one)
    blocks.sub_blocks["decode"] = FarmDecodeStep(farm, "sdxl")

    with pytest.raises(InvalidOption, match="padding_mask_crop"):
        run(one, blocks, "job", padding_mask_crop=8)
    with pytest.raises(InvalidOption, match="option 'height' is not known"):
        FarmDecodeStep(farm, "sdxl", height=64)  # type: ignore[call-arg]
    with pytest.raises(UnknownVae):
        FarmDecodeStep(farm, "nobody")
    assert sum(depth.queued for depth in farm.queues()) == 0
