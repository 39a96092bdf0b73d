"""What is folded gives the plain module's values but for the order of its sums; what is not known is left alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLFlux2, AutoencoderTiny
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from tests.worker.items import randn
from torch import nn

from vaefarm_worker.fast import CHANNELS_LAST, FOLDED_ATTENTION, FOLDED_UPSAMPLE, fast_decoder, norm
from vaefarm_worker.fast.attention import FoldedAttention, fold_attention
from vaefarm_worker.fast.resnet import LeanResnet, make_lean
from vaefarm_worker.fast.upsampling import fold_upsampling

ALL = (FOLDED_UPSAMPLE, FOLDED_ATTENTION, CHANNELS_LAST)

#: Sizes of latents: of one value, of one row, odd.
SIZES = [(1, 1), (1, 2), (2, 1), (3, 5), (7, 4), (9, 9)]


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def kl(loader: Any = AutoencoderKL, **config: Any) -> Any:
    fields = {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
    }
    return seeded(lambda: loader(**(fields | config)))


def tiny() -> Any:
    widths = (16, 16, 16, 16)
    return seeded(lambda: AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths))


VAES: dict[str, Callable[[], Any]] = {
    "kl": kl,
    "flux2": lambda: kl(AutoencoderKLFlux2, latent_channels=4),
    "without attention": lambda: kl(mid_block_add_attention=False),
    "tiny": tiny,
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_folded_upsampling_is_the_plain_one_at_every_border(size: tuple[int, int], batch: int) -> None:
    parent = seeded(lambda: nn.ModuleList([Upsample2D(6, use_conv=True, out_channels=5)]))
    latents = randn(batch, 6, *size)
    with torch.no_grad():
        plain = parent[0](latents)
        assert fold_upsampling(parent)
        folded = parent[0](latents)

    assert folded.shape == (batch, 5, 2 * size[0], 2 * size[1])
    assert (folded - plain).abs().max() < 1e-5


def test_a_folded_pair_of_upsampling_and_convolution_is_the_plain_one() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2.0), nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.ReLU()]
    sequence = seeded(lambda: nn.Sequential(*layers))
    with torch.no_grad():
        plain = sequence(randn(2, 3, 5, 3))
        assert fold_upsampling(sequence)
        assert (sequence(randn(2, 3, 5, 3)) - plain).abs().max() < 1e-5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_folded_attention_is_the_plain_one(size: tuple[int, int], bias: bool) -> None:
    options: dict[str, Any] = {"heads": 1, "dim_head": 16, "norm_num_groups": 4, "residual_connection": True}
    parent = seeded(lambda: nn.ModuleList([Attention(16, bias=bias, out_bias=bias, **options)]))
    with torch.no_grad():
        plain = parent[0](randn(2, 16, *size))
        assert fold_attention(parent)
        folded = parent[0](randn(2, 16, *size))

    assert isinstance(parent[0], FoldedAttention)
    assert (folded - plain).abs().max() < 1e-5


@pytest.mark.parametrize("channels", [16, 8])
def test_a_lean_residual_block_gives_the_plain_ones_bits(channels: int) -> None:
    parent = nn.ModuleList(
        [seeded(lambda: ResnetBlock2D(in_channels=8, out_channels=channels, temb_channels=None, groups=4))]
    )
    with torch.no_grad():
        given = randn(2, 8, 7, 5)
        plain = parent[0](given, None)
        assert make_lean(parent)
        assert torch.equal(parent[0](given, None), plain)

    assert isinstance(parent[0], LeanResnet)
    assert torch.equal(given, randn(2, 8, 7, 5)), "what it was given is left as it is"


@pytest.mark.parametrize("vae", VAES)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_fast_decode_is_the_plain_one_but_for_the_order_of_sums(vae: str, batch: int, size: tuple[int, int]) -> None:
    module = VAES[vae]()
    fast = fast_decoder(module, ALL)
    latents = randn(batch, 4, *size)
    assert fast is not None
    with torch.inference_mode():
        plain = module.decode(latents).sample
        folded = fast.decode(module, latents)

    assert folded.shape == plain.shape
    assert (folded - plain).abs().max() <= 1e-5 * max(1.0, float(plain.abs().max()))


@pytest.mark.parametrize("vae", VAES)
def test_after_a_fast_decode_the_module_is_the_plain_one_bit_for_bit(vae: str) -> None:
    module, untouched = VAES[vae](), VAES[vae]()
    fast = fast_decoder(module, ALL)
    assert fast is not None
    with torch.inference_mode():
        fast.decode(module, randn(1, 4, 8, 8))
        assert torch.equal(module.decode(randn(1, 4, 8, 8)).sample, untouched.decode(randn(1, 4, 8, 8)).sample)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vae", VAES)
def test_in_half_precision_it_is_no_further_from_float32_than_the_plain_decode(vae: str, dtype: torch.dtype) -> None:
    module = VAES[vae]()
    latents = randn(4, 4, 12, 12)
    with torch.inference_mode():
        wide = module.decode(latents).sample
        fast = fast_decoder(module, ALL)
        assert fast is not None
        torch.nn.Module.to(module, dtype)
        fast.module.to(dtype)
        plain = module.decode(latents.to(dtype)).sample
        folded = fast.decode(module, latents.to(dtype))

    # A tenth for chance: both are sums of roundings.
    assert deviation(folded, wide) <= 1.1 * deviation(plain, wide)


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (2, 7), (3, 1000)])
def test_a_norm_in_strips_of_rows_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, batch: int, rows: int) -> None:
    monkeypatch.setattr(norm, "SMALL", 0)
    monkeypatch.setattr(norm, "ROWS", rows * batch * 6 * 11)
    plain = seeded(lambda: nn.GroupNorm(3, 6))
    with torch.no_grad():
        plain.weight.copy_(randn(6))
        plain.bias.copy_(randn(6))
        given = (3 * randn(batch, 6, 13, 11) + 5).contiguous(memory_format=torch.channels_last)
        made = norm.ExactNorm(plain)(given)

        assert made.is_contiguous(memory_format=torch.channels_last)
        assert (made - plain(given)).abs().max() < 1e-5


def test_a_large_map_with_its_channels_last_is_normed_as_exactly_as_one_with_its_channels_first() -> None:
    plain = nn.GroupNorm(1, 2)
    given = (randn(1, 2, 1024, 1024) + 0.5).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = plain.double()(given.double().contiguous())
        made = norm.ExactNorm(plain.float())(given)

    assert (made - exact).abs().max() < 2e-6


def deviation(made: torch.Tensor, exact: torch.Tensor) -> float:
    return float((made.float() - exact).square().mean().sqrt())


def test_weights_that_are_not_folded_are_held_once() -> None:
    module = kl()
    fast = fast_decoder(module, ALL)
    assert fast is not None
    own = {id(one) for one in fast.module.parameters()} - {id(one) for one in module.parameters()}

    # Two up-samplings, whose biases are shared, and attention's weight and bias.
    assert len(own) == 4


def test_each_switch_is_on_only_where_it_is_wanted_and_the_structure_is_known() -> None:
    def switches(vae: Any, wanted: tuple[str, ...]) -> tuple[str, ...] | None:
        fast = fast_decoder(vae, wanted)
        return None if fast is None else fast.switches

    assert switches(kl(), ALL) == ALL
    assert switches(kl(), (FOLDED_ATTENTION,)) == (FOLDED_ATTENTION,)
    assert switches(kl(mid_block_add_attention=False), ALL) == (FOLDED_UPSAMPLE, CHANNELS_LAST)
    assert switches(tiny(), ALL) == (FOLDED_UPSAMPLE, CHANNELS_LAST)


def test_a_decoder_of_an_unknown_class_is_left_alone() -> None:
    vae = seeded(
        lambda: AutoencoderDC(
            encoder_block_out_channels=(16, 16),
            decoder_block_out_channels=(16, 16),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
        )
    )

    assert fast_decoder(vae, ALL) is None


@pytest.mark.parametrize(
    "unknown",
    [
        lambda: Upsample2D(4, use_conv=False),
        lambda: Upsample2D(4, use_conv_transpose=True),
        lambda: Upsample2D(4, use_conv=True, interpolate=False),
        lambda: Upsample2D(4, use_conv=True, kernel_size=5, padding=2),
        lambda: Upsample2D(4, use_conv=True, norm_type="rms_norm", eps=1e-6, elementwise_affine=True),
        lambda: nn.Sequential(nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.Conv2d(4, 4, 3, padding=1)),
        lambda: nn.Sequential(nn.Upsample(scale_factor=3.0), nn.Conv2d(4, 4, 3, padding=1)),
        lambda: nn.Sequential(nn.Upsample(scale_factor=2.0), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
        lambda: nn.Sequential(nn.Upsample(scale_factor=2.0), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)),
    ],
)
def test_an_upsampling_of_another_kind_is_left_alone(unknown: Callable[[], nn.Module]) -> None:
    parent = nn.ModuleList([unknown()])
    before = str(parent)

    assert not fold_upsampling(parent)
    assert str(parent) == before


@pytest.mark.parametrize(
    "options",
    [
        {"heads": 2, "dim_head": 8},
        {"heads": 1, "dim_head": 16, "qk_norm": "layer_norm"},
        {"heads": 1, "dim_head": 16, "spatial_norm_dim": 4},
        {"heads": 1, "dim_head": 16, "rescale_output_factor": 2.0},
        {"heads": 1, "dim_head": 16, "processor": AttnProcessor()},
    ],
    ids=lambda options: " ".join(options),
)
def test_attention_of_another_kind_is_left_alone(options: dict[str, Any]) -> None:
    parent = nn.ModuleList([Attention(32, norm_num_groups=4, residual_connection=True, **options)])

    assert not fold_attention(parent)
    assert isinstance(parent[0], Attention)


@pytest.mark.parametrize(
    "options",
    [
        {"temb_channels": 4},
        {"temb_channels": None, "up": True},
        {"temb_channels": None, "output_scale_factor": 2.0},
        {"temb_channels": None, "non_linearity": "gelu"},
    ],
    ids=str,
)
def test_a_residual_block_of_another_kind_is_left_alone(options: dict[str, Any]) -> None:
    parent = nn.ModuleList([ResnetBlock2D(in_channels=8, groups=4, **options)])

    assert not make_lean(parent)
    assert isinstance(parent[0], ResnetBlock2D)
