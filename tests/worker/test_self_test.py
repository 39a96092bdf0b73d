"""A device that decodes a known latent to another picture is noticed, from the start or later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaefarm_shared.catalogue import Catalogue, Contract, VaeEntry
from vaefarm_shared.errors import DeviceFault
from vaefarm_worker.decoder import BatchItem, Decoded, Pixels, ServedVae
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.self_test import KNOWN_MEANS, MEAN_TOLERANCE, TOLERANCES, SelfTest

PICTURE: Pixels = np.random.default_rng(0).integers(20, 230, (1, 64, 64, 3), dtype=np.uint8)


SERVED = [ServedVae("x", Contract(latent_channels=4, spatial_scale=8), "sha256:unknown")]


def start(decode: Callable[[BatchItem], Pixels], dtype: str = "float32") -> SelfTest:
    """A self-test that has run once."""
    test = SelfTest("cuda:0", lambda item: Decoded(decode(item), dtype))
    test.run(SERVED)
    return test


def tried(entries: list[VaeEntry]) -> LocalDecoder:
    """A decoder after the self-test of its start."""
    decoder = LocalDecoder(entries, "cpu")
    decoder.self_test()
    return decoder


def demo(dtype: str = "float32") -> LocalDecoder:
    return tried([Catalogue.load()["demo"].model_copy(update={"cpu_dtype": dtype})])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_shipped_vae_passes_in_every_dtype_by_its_known_picture(dtype: str) -> None:
    decoder = demo(dtype)

    assert decoder.vaes["demo"].revision in KNOWN_MEANS
    decoder.self_test()


def test_the_small_vaes_pass_without_a_known_picture(catalogue: Path) -> None:
    vaes = ("sd-v1", "sdxl", "flux", "taesd")
    decoder = tried([Catalogue.load(catalogue)[vae] for vae in vaes])

    assert all(decoder.vaes[vae].revision not in KNOWN_MEANS for vae in vaes)
    decoder.self_test()


def test_weights_that_changed_in_memory_are_noticed(catalogue: Path) -> None:
    decoder = tried([Catalogue.load(catalogue)["sd-v1"]])
    decoder.self_test()
    with decoder._shelf.using("sd-v1") as with_weights, torch.no_grad():
        # One weight of a quarter of a million.
        with_weights.module.decoder.conv_in.weight[0, 0, 0, 0] = 30.0

    with pytest.raises(DeviceFault, match=r"self-test of cpu: VAE 'sd-v1' decodes the same latent to another picture"):
        decoder.self_test()


def test_a_device_that_is_broken_from_the_start_is_noticed_by_the_shipped_vaes_known_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conv2d = torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.Conv2d, "_conv_forward", lambda self, x, w, b: 0.8 * conv2d(x, w, b, padding=self.padding)
    )

    with pytest.raises(DeviceFault, match="VAE 'demo' decodes a known latent to another picture, in the mean"):
        demo()


@pytest.mark.parametrize("off", [1.0, -1.0])
def test_means_as_far_off_as_rounding_goes_pass_and_others_do_not(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    revision = next(iter(KNOWN_MEANS))
    decoder = demo()
    known = KNOWN_MEANS[revision]

    monkeypatch.setitem(KNOWN_MEANS, revision, (known[0] + off * (MEAN_TOLERANCE - 0.5), *known[1:]))
    tried([Catalogue.load()["demo"]])
    monkeypatch.setitem(KNOWN_MEANS, revision, (*known[:-1], known[-1] + off * (MEAN_TOLERANCE + 0.5)))
    with pytest.raises(DeviceFault):
        tried([Catalogue.load()["demo"]])
    decoder.self_test()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_difference_within_the_dtypes_rounding_passes(dtype: str, beyond: int) -> None:
    changed = PICTURE.copy()
    changed[0, 5, 5, 1] += TOLERANCES[dtype] + beyond
    pictures = iter([PICTURE, PICTURE, changed])
    test = start(lambda _: next(pictures), dtype)

    if beyond:
        with pytest.raises(DeviceFault, match=f"{TOLERANCES[dtype] + 1} of 255 off"):
            test.run(SERVED)
    else:
        test.run(SERVED)


def raises(error: Exception) -> Callable[[BatchItem], Pixels]:
    def decode(_: BatchItem) -> Pixels:
        raise error

    return decode


@pytest.mark.parametrize(
    ("decode", "said"),
    [
        (raises(RuntimeError("first line\nsecond")), "cannot decode a known latent: first line;"),
        (raises(ValueError()), "cannot decode a known latent: ValueError;"),
        (lambda _: np.full((1, 64, 64, 3), 9, np.uint8), "a picture of one colour, 9 of 255"),
        (lambda _: PICTURE[:, :32], r"shape \(1, 32, 64, 3\), not 64 x 64"),
    ],
)
def test_what_is_no_picture_at_all_is_a_fault_at_the_start(decode: Any, said: str) -> None:
    with pytest.raises(DeviceFault, match=said) as caught:
        start(decode)

    assert "\n" not in str(caught.value)


def test_a_device_that_decodes_the_first_two_times_differently_is_not_started_on() -> None:
    pictures = iter([PICTURE, 255 - PICTURE])

    with pytest.raises(DeviceFault, match="another picture"):
        start(lambda _: next(pictures))


def test_the_fixed_latent_is_the_same_for_ever() -> None:
    seen: list[BatchItem] = []

    def decode(item: BatchItem) -> Pixels:
        seen.append(item)
        return PICTURE

    start(decode)

    assert seen[0].latents.array.flat[:3].tolist() == pytest.approx([1.7640524, 0.4001572, 0.978738])
