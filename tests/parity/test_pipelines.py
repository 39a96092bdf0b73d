"""The cases themselves: deterministic, sensitive to each constant that a farm could forget, and fit for vae=None."""

import numpy as np
import pytest
import torch
from tests.parity.case import Case, LastStep
from tests.parity.pipelines import BUILDERS, case


@pytest.fixture(params=BUILDERS)
def one(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


def test_pictures_are_the_same_each_time_and_others_without_any_of_the_vaes_constants(one: Case) -> None:
    pictures = one.pictures()

    assert one.name in BUILDERS
    assert all(picture.std() > 20 for picture in pictures), "pictures that tell something"
    assert np.array_equal(pictures, one.pictures())
    for constant in one.constants:
        assert not np.array_equal(pictures, one.without(constant).pictures()), constant


def test_without_its_vae_a_pipeline_gives_the_same_latents(one: Case) -> None:
    latents = one.latents()

    assert len(latents) == len(one.pictures())
    if not one.needs_vae:
        assert torch.equal(one.without_vae().latents(), latents)


def test_flux2_klein_fails_without_a_vae_once_its_callback_has_seen_the_latents() -> None:
    klein = case("flux2-klein")
    last = LastStep()

    with pytest.raises(AttributeError, match="bn"):
        klein.without_vae().images("latent", callback_on_step_end=last)

    assert torch.equal(last.latents, klein.latents())


def test_flux2s_latents_are_not_contiguous() -> None:
    assert not case("flux2").latents().is_contiguous()
