"""Small decoders of every shape that decodes in strips know, with norms that do something."""

from collections.abc import Callable
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderTiny

WITHOUT_QUANT: Final = {"use_quant_conv": False, "use_post_quant_conv": False}


def kl(
    *channels: int, layers: int = 2, groups: int = 8, latent_channels: int = 4, flux2: bool = False, **config: Any
) -> Any:
    count = len(channels)
    vae = (AutoencoderKLFlux2 if flux2 else AutoencoderKL)(
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=groups,
        latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        **config,
    )
    for module in vae.decoder.modules():
        if isinstance(module, torch.nn.GroupNorm):
            torch.nn.init.normal_(module.weight, 1.0, 0.3)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
    return vae.eval()


def rescaled() -> Any:
    vae = kl(16, 32)
    for module in vae.decoder.modules():
        if hasattr(module, "output_scale_factor"):
            module.output_scale_factor = 1.5
        if hasattr(module, "rescale_output_factor"):
            module.rescale_output_factor = 0.75
    return vae


def two_heads() -> Any:
    vae = kl(16, 32)
    vae.decoder.mid_block.attentions[0].heads = 2
    return vae


def tiny(**config: Any) -> Any:
    widths = (8,) * 4
    return AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths, **config).eval()


#: By what they are like.
NETWORKS: Final[dict[str, Callable[[], Any]]] = {
    "sd": lambda: kl(16, 32, 32, 32),
    "sd3 and flux": lambda: kl(16, 32, 32, 32, latent_channels=16, **WITHOUT_QUANT),
    "flux2": lambda: kl(16, 32, 32, 32, latent_channels=32, flux2=True),
    "flux2 small": lambda: kl(16, 32, latent_channels=8, flux2=True, decoder_block_out_channels=(24, 48)),
    "demo": lambda: kl(8, 16, 16, layers=1, groups=1),
    "cogview": lambda: kl(8, 32, 64, groups=4, layers=3, mid_block_add_attention=False, **WITHOUT_QUANT),
    "groups of one": lambda: kl(8, 16, groups=8),
    "one block": lambda: kl(16, layers=1),
    "rescaled": rescaled,
    "two heads": two_heads,
    "taesd": tiny,
}


def network(name: str) -> Any:
    """With the same weights each time."""
    torch.manual_seed(sum(name.encode()))
    return NETWORKS[name]()
