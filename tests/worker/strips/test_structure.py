"""A decoder with a part that strips do not know is told apart: it is never decoded by guess."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderDC
from diffusers.models.attention_processor import AttnProcessor
from tests.worker.strips.networks import NETWORKS, network
from torch import nn

from vaefarm_worker import strips


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_like_the_families_networks_is_known(name: str) -> None:
    assert strips.unknown_part(network(name)) is None


class Another(nn.Module):
    """A part that nobody foresaw."""


def put(path: str, value: Callable[[], Any]) -> Callable[[Any], None]:
    """Put a value into a VAE's decoder."""

    def change(vae: Any) -> None:
        owner, _, name = path.rpartition(".")
        setattr(vae.decoder.get_submodule(owner), name, value())

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("conv_in", lambda: nn.Conv2d(4, 32, 3, padding=1, padding_mode="reflect")), "conv_in"),
        (put("conv_out", lambda: nn.Conv2d(16, 3, 5, padding=2)), "conv_out"),
        (put("conv_norm_out", lambda: nn.BatchNorm2d(16)), "conv_norm_out"),
        (put("conv_act", nn.GELU), "conv_norm_out"),
        (put("mid_block.resnets.1.nonlinearity", nn.GELU), "mid_block.resnets.1"),
        (put("mid_block.resnets.0.time_emb_proj", lambda: nn.Linear(4, 4)), "mid_block.resnets.0"),
        (put("mid_block.attentions.0.processor", AttnProcessor), "mid_block.attentions.0"),
        (put("mid_block.attentions.0.norm_q", lambda: nn.LayerNorm(4)), "mid_block.attentions.0"),
        (put("mid_block.attentions.0.to_v", Another), "mid_block.attentions.0"),
        (put("up_blocks.0.resnets.0.time_embedding_norm", lambda: "scale_shift"), "up_blocks.0.resnets.0"),
        (put("up_blocks.0.resnets.2.conv1.stride", lambda: (2, 2)), "up_blocks.0.resnets.2"),
        (put("up_blocks.1.resnets.0.conv_shortcut", Another), "up_blocks.1.resnets.0"),
        (put("up_blocks.1.resnets.1.norm2", Another), "up_blocks.1.resnets.1"),
        (put("up_blocks.0.upsamplers.0.interpolate", lambda: False), "up_blocks.0.upsamplers"),
        (put("up_blocks.0.upsamplers.0.norm", lambda: nn.LayerNorm(4)), "up_blocks.0.upsamplers"),
        (put("mid_block", Another), "decoder"),
    ],
)
def test_a_part_that_is_not_known_is_named(change: Callable[[Any], None], named: str) -> None:
    vae = network("sd")
    change(vae)

    assert strips.unknown_part(vae) == named


def test_dropout_is_known_only_where_it_drops_nothing() -> None:
    vae = network("sd")
    vae.decoder.mid_block.resnets[0].dropout.p = 0.5
    assert strips.unknown_part(vae) is None

    assert strips.unknown_part(vae.train()) == "mid_block.resnets.0"


def test_an_autoencoder_tiny_that_up_samples_otherwise_is_named() -> None:
    vae = network("taesd")
    place = next(place for place, layer in enumerate(vae.decoder.layers) if isinstance(layer, nn.Upsample))
    vae.decoder.layers[place] = nn.Upsample(scale_factor=2, mode="bilinear")

    assert strips.unknown_part(vae) == f"layers.{place}"


@pytest.mark.parametrize("vae_class", [AsymmetricAutoencoderKL, AutoencoderDC])
def test_other_classes_are_not_known(vae_class: Any) -> None:
    with torch.device("meta"):
        assert strips.unknown_part(vae_class()) == vae_class.__name__
