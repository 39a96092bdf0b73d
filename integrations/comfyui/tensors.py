"""ComfyUI's tensors and a farm's: LATENT and IMAGE on one side, latents, pictures and raw tensors on the other.

ComfyUI holds latents as the decoder takes them (`process_out` has scaled them back), but for Flux.2, whose BatchNorm it
counts as the VAE's, and for tiny autoencoders, which decode what a pipeline holds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from vaefarm_producer import EncodeOptions, InvalidLatents, InvalidPicture, SubmitOptions
from vaefarm_shared.catalogue import Contract
from vaefarm_shared.images import PATCHED

#: Scale and shift that ComfyUI has taken out of the latents, and a tiny autoencoder wants in: (z - shift) * scale.
TINY: Final[dict[str, tuple[float, float]]] = {
    "taesd": (0.18215, 0.0),
    "taesdxl": (0.13025, 0.0),
    "taesd3": (1.5305, 0.0609),
    "taef1": (0.3611, 0.1159),
}


def latents_of(samples: Mapping[str, Any], contract: Contract) -> torch.Tensor:
    """The tensor of a LATENT, in one of the contract's layouts.

    Raises InvalidLatents for a video, which no farm takes yet, and for several tensors in one.
    """
    latents: torch.Tensor = samples["samples"]
    if getattr(latents, "is_nested", False):
        raise InvalidLatents("the latent holds several tensors (a video with its sound); expected those of pictures")
    if latents.ndim != 5:
        return latents
    if latents.shape[2] != 1:
        raise InvalidLatents(
            f"the latent is a video of {latents.shape[2]} latent frames; a farm decodes pictures: use ComfyUI's own VAE"
        )
    return latents if "frames" in contract.layouts else latents[:, :, 0]


def decode_arguments(vae: str, contract: Contract, latents: torch.Tensor) -> SubmitOptions:
    """What a submit says of the scale of ComfyUI's latents."""
    if vae in TINY:
        scaling_factor, shift_factor = factors(vae)
        return {"scaling_factor": scaling_factor, "shift_factor": shift_factor}
    return {"normalised": is_patchified(contract, latents.shape)}


def encode_options(vae: str, contract: Contract) -> EncodeOptions:
    """What an encode says, so that its latents are as ComfyUI holds them."""
    if vae in TINY:
        scaling_factor, shift_factor = factors(vae)
        return {"scaling_factor": scaling_factor, "shift_factor": shift_factor}
    return {"normalised": "patchified" in contract.layouts}


def factors(vae: str) -> tuple[float, float]:
    """The farm's `z / scaling_factor + shift_factor` that makes (z - shift) * scale, and an encode's reverse of it."""
    scale, shift = TINY[vae]
    return 1 / scale, -shift * scale


def is_patchified(contract: Contract, shape: Sequence[int]) -> bool:
    """Whether those are Flux.2's latents: the channels of 2 x 2 behind one another, normalised."""
    return "patchified" in contract.layouts and len(shape) == 4 and shape[1] == 4 * contract.latent_channels


def from_encoder(latents: torch.Tensor, contract: Contract) -> torch.Tensor:
    """(n, c, h, w) of an encode -> what ComfyUI holds: float32, as a film of one frame, or Flux.2's blocks."""
    latents = latents.float()
    if "frames" in contract.layouts:
        return latents.unsqueeze(2)
    if "patchified" in contract.layouts:
        count, channels, rows, columns = latents.shape
        blocks = latents.reshape(count, channels, rows // 2, 2, columns // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return blocks.reshape(count, 4 * channels, rows // 2, columns // 2)
    return latents


def pixels_of(image: torch.Tensor, contract: Contract) -> Any:
    """What `Farm.encode` takes of an IMAGE, (n, height, width, 3 or more) in [0, 1].

    Cropped around its middle to what the VAE takes, as ComfyUI does it. As uint8 where that loses nothing, a quarter of
    the bytes: what was loaded from a file is such.

    Raises InvalidPicture for one that is smaller than that.
    """
    scale = contract.spatial_scale
    side = scale if PATCHED.isdisjoint(contract.layouts) else 2 * scale
    height, width = (size // side * side for size in image.shape[1:3])
    if not height or not width:
        raise InvalidPicture(
            f"the picture is {image.shape[2]} x {image.shape[1]} pixels; expected {side} x {side} or more"
        )
    top, left = (image.shape[1] % side) // 2, (image.shape[2] % side) // 2
    pixels = image[:, top : top + height, left : left + width, :3].float().clamp(0, 1)
    levels = (pixels * 255).round()
    if torch.equal(levels / 255, pixels):
        return levels.to(torch.uint8).cpu().numpy()
    return pixels.movedim(-1, 1) * 2 - 1


def image_of_pictures(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size -> IMAGE: (n, height, width, 3 or 4) float32 in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32) / 255)


def image_of_tensor(raw: torch.Tensor) -> torch.Tensor:
    """What a decoder gives, (n, 3 or 4, height, width) about [-1, 1] -> IMAGE, of values that are no levels of 255."""
    return (raw.float() / 2 + 0.5).clamp(0, 1).movedim(1, -1).contiguous()
