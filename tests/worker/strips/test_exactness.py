"""What strips decode is what `vae.decode` gives, whatever the network, size, batch, setting and height of a strip."""

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.worker.items import randn
from tests.worker.strips.networks import NETWORKS, network

from vaefarm_worker import strips

#: The most that any value of a picture in about [-1, 1] may differ by, in float32.
TOLERANCE = 1e-4

settings_of_memory = pytest.mark.parametrize("recompute", [False, True], ids=["half", "third"])
cached = cache(network)


@torch.inference_mode()
def plain(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(latents).sample  # type: ignore[no-any-return]


def exact(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """In float64."""
    return plain(deepcopy(vae).double(), latents.double())


def error(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    assert found.shape == expected.shape
    return (found.double() - expected.double()).abs()


@settings_of_memory
@pytest.mark.parametrize("strip", [1, 2, 3, 7, 1000, None])
@pytest.mark.parametrize("name", NETWORKS)
def test_strips_of_any_height_give_the_picture_of_a_whole_decode(name: str, strip: int | None, recompute: bool) -> None:
    vae = cached(name)
    latents = 2 * randn(1, vae.config.latent_channels, 11, 9)

    picture = strips.decode(vae, latents, recompute=recompute, strip=strip)

    assert error(picture, plain(vae, latents)).max() <= TOLERANCE
    assert error(picture, exact(vae, latents)).max() <= TOLERANCE


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["sd", "flux2", "demo", "taesd"]),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    count=st.integers(1, 3),
    strip=st.integers(1, 40),
    recompute=st.booleans(),
)
def test_sizes_and_batches_and_strips_of_any_number_give_the_picture(
    name: str, size: tuple[int, int], count: int, strip: int, recompute: bool
) -> None:
    vae = cached(name)
    latents = randn(count, vae.config.latent_channels, *size)

    picture = strips.decode(vae, latents, recompute=recompute, strip=strip)

    assert error(picture, plain(vae, latents)).max() <= TOLERANCE


@settings_of_memory
@pytest.mark.parametrize("size", [(1, 1), (23, 17), (8, 40), (40, 3)])
def test_odd_sizes_give_the_picture_with_strips_as_they_are_chosen(size: tuple[int, int], recompute: bool) -> None:
    vae = cached("sd")
    latents = randn(2, 4, *size)

    assert error(strips.decode(vae, latents, recompute=recompute), plain(vae, latents)).max() <= TOLERANCE


@settings_of_memory
def test_a_map_far_from_zero_loses_nothing_to_the_size_of_its_mean(recompute: bool) -> None:
    vae = network("sd")
    with torch.no_grad():
        vae.decoder.conv_in.bias.add_(1000)
    latents = randn(1, 4, 16, 16)

    found = error(strips.decode(vae, latents, recompute=recompute, strip=2), exact(vae, latents))

    assert found.max() <= error(plain(vae, latents), exact(vae, latents)).max() + TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sd", "sd3 and flux", "flux2", "demo", "cogview", "taesd"])
def test_in_half_precision_strips_are_no_further_from_the_exact_picture_than_a_whole_decode(
    name: str, dtype: torch.dtype
) -> None:
    vae = torch.nn.Module.to(network(name), dtype)
    latents = randn(8, vae.config.latent_channels, 20, 12).to(dtype)
    wide = plain(deepcopy(vae).float(), latents.float())
    allowed = error(plain(vae, latents), wide).flatten(1)

    for recompute in (False, True):
        found = error(strips.decode(vae, latents, recompute=recompute), wide).flatten(1)

        assert (found.mean(1) <= allowed.mean(1)).all(), "in each picture"
        for share in (0.99, 0.999):
            assert quantile(found, share) <= quantile(allowed, share), "in all of them"
        # The largest error of a picture is luck in either decode: less so in the mean of eight, more in the worst.
        assert found.amax(1).mean() <= 1.1 * allowed.amax(1).mean()
        assert found.max() <= 1.5 * allowed.max()


def quantile(values: torch.Tensor, share: float) -> float:
    """Of more values than torch's own takes."""
    return float(values.flatten().sort().values[int(share * (values.numel() - 1))])


def test_attention_in_chunks_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a device knows no attention without a matrix of scores."""
    vae = network("two heads")
    latents = randn(1, 4, 12, 9)
    asked: list[int] = []
    whole = torch.nn.functional.scaled_dot_product_attention

    def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        asked.append(queries.shape[2])
        return whole(queries, keys, values)

    expected = plain(vae, latents)
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_: 0)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)

    picture = strips.decode(vae, latents, recompute=False)

    assert asked == [16] * 6 + [12]
    assert error(picture, expected).max() <= TOLERANCE


def test_the_vae_is_left_as_it_was() -> None:
    vae = network("sd")
    latents = randn(1, 4, 9, 9)
    before, kept, given = deepcopy(vae.state_dict()), plain(vae, latents), latents.clone()

    strips.decode(vae, latents, recompute=True)

    assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())
    assert torch.equal(plain(vae, latents), kept)
    assert torch.equal(latents, given)
