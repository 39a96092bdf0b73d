"""The demo VAE's network, and a start from which a short training run succeeds: a nearly linear autoencoder.

The start has two steps: `soften` turns the random network into a nearly linear map that still carries its
input, and `fit_ends` solves for the two outermost convolutions by ridge regression. The picture is
recognisable before the first gradient step.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

# diffusers ships no types for its models' attributes.
Autoencoder = Any

# The encoder's log-variance is not used in training; it is parked at this value.
PARKED_LOGVAR = -7.0
# Far enough from zero that the constant channels outweigh a picture's own spread.
REFERENCE_LEVEL = 1.5
# Far right of zero, SiLU is nearly the identity.
LINEAR_SILU_BIAS = 3.0
FIT_CROP = 64


def build_model() -> Autoencoder:
    """Build the untrained network: pictures (n, 3, h, w) to latents (n, 4, h/8, w/8) and back."""
    make: Any = AutoencoderKL
    return make(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,  # more groups of so few channels lose brightness and stall the training
        sample_size=512,
        force_upcast=False,
    )


def load_model(folder: Path) -> Autoencoder:
    """Load a saved model in float32, ready to decode."""
    load: Any = AutoencoderKL.from_pretrained
    return load(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False).eval()


@torch.no_grad()
def soften(model: Autoencoder) -> None:
    """Make the network nearly linear: blocks add almost nothing, samplers average or copy."""
    carry_input(model.encoder.conv_in, copies=2)
    carry_input(model.decoder.conv_in, copies=model.decoder.conv_in.out_channels)
    for part in (model.encoder, model.decoder):
        part.conv_norm_out.bias.fill_(LINEAR_SILU_BIAS)
        part.conv_out.weight.mul_(0.5)
        part.conv_out.bias.zero_()
    for block in model.modules():
        kind = type(block)
        if kind is ResnetBlock2D:
            soften_resnet(block)
        elif kind is Attention:
            block.to_out[0].weight.mul_(0.1)
            block.to_out[0].bias.zero_()
        elif kind is Downsample2D:
            add_diagonal(block.conv, slice(0, 2), 0.25)  # the mean of 2x2 pixels
        elif kind is Upsample2D:
            add_diagonal(block.conv, slice(1, 2), 1.0)  # a copy of the nearest pixel


def bias_of(conv: nn.Conv2d) -> torch.Tensor:
    """Give the bias (outputs,) of a convolution, which every one handled here has."""
    assert conv.bias is not None
    return conv.bias


def carry_input(conv: nn.Conv2d, copies: int) -> None:
    """Make the first channels of a convolution copies of its input, all of them above constant levels.

    GroupNorm (Wu and He, 2018) divides by the group's spread, which loses absolute brightness; large
    constant levels of both signs keep that spread nearly the same for every picture.
    """
    outputs, inputs = conv.weight.shape[:2]
    sign = 1 - 2 * ((torch.arange(outputs) // inputs) % 2)
    bias_of(conv).copy_(REFERENCE_LEVEL * sign)
    conv.weight.mul_(0.5)
    for k in range(min(outputs, copies * inputs)):
        conv.weight[k, k % inputs, 1, 1] += 1.0


def soften_resnet(block: ResnetBlock2D) -> None:
    """Make a residual block add nearly nothing and its shortcut, where it has one, carry its input."""
    block.conv2.weight.mul_(0.05)
    bias_of(block.conv2).zero_()
    if block.conv_shortcut is None:
        return
    weight = block.conv_shortcut.weight
    weight.mul_(0.3)
    bias_of(block.conv_shortcut).zero_()
    outputs, inputs = weight.shape[:2]
    # Where inputs are folded onto fewer outputs, the root keeps the spread of their sum.
    for k in range(max(outputs, inputs)):
        weight[k % outputs, k % inputs, 0, 0] += 1 / math.sqrt(max(1, inputs / outputs))


def add_diagonal(conv: nn.Conv2d, taps: slice, value: float) -> None:
    """Shrink a convolution and add value to the given taps of every channel onto itself."""
    conv.weight.mul_(0.1)
    bias_of(conv).zero_()
    for k in range(min(conv.weight.shape[:2])):
        conv.weight[k, k, taps, taps] += value


@torch.no_grad()
def fit_ends(model: Autoencoder, crops: torch.Tensor) -> None:
    """Solve for encoder.conv_out and decoder.conv_out on crops (n, 3, h, w) in [-1, 1]."""
    for conv in (model.quant_conv, model.post_quant_conv):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    latent_channels = model.config.latent_channels
    last = model.encoder.conv_out
    last.weight.zero_()
    last.bias.zero_()
    last.bias[latent_channels:] = PARKED_LOGVAR
    solve(last, features_before(model.encoder, crops), patch_components(crops, latent_channels), 1e-3)
    latents = model.encode(crops).latent_dist.mean
    solve(model.decoder.conv_out, features_before(model.decoder, latents), crops, 1e-4)


def patch_components(crops: torch.Tensor, count: int) -> torch.Tensor:
    """Give the first principal components (n, count, h/8, w/8), unit spread, of the crops' 8x8 patches."""
    patches = nn.functional.pixel_unshuffle(crops, 8)
    rows = patches.permute(0, 2, 3, 1).reshape(-1, patches.shape[1])
    rows = rows - rows.mean(0)
    _, _, components = torch.linalg.svd(rows, full_matrices=False)
    scores = rows.matmul(components[:count].T)
    scores.div_(scores.std(0))
    return scores.reshape(len(crops), *patches.shape[2:], count).permute(0, 3, 1, 2)


def features_before(part: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Give what reaches part.conv_out (n, c, h, w) when part runs on inputs."""
    caught: list[torch.Tensor] = []
    conv_out = part.get_submodule("conv_out")
    hook = conv_out.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    part(inputs)
    hook.remove()
    return caught[0]


def solve(conv: nn.Conv2d, features: torch.Tensor, target: torch.Tensor, ridge: float) -> None:
    """Set a 3x3 convolution's first outputs to the ridge regression of target on features."""
    channels = features.shape[1]
    rows = nn.functional.unfold(features, 3, padding=1).transpose(1, 2).reshape(-1, channels * 9).double()
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
    wanted = target.permute(0, 2, 3, 1).reshape(len(rows), -1).double()
    gram = rows.T @ rows
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, rows.T @ wanted).T.float()
    outputs = len(solution)
    conv.weight[:outputs] = solution[:, :-1].reshape(outputs, channels, 3, 3)
    bias_of(conv)[:outputs] = solution[:, -1]
