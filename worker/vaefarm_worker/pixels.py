"""From what a VAE decodes to pixels, by diffusers' own steps, or to a raw tensor."""

import torch

from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import HostTensor

from .clips import Clip
from .decoder import Decoded
from .host_copy import to_host


def fit(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(n, c, h, w) -> (n, c, height, width): resized until both sides cover, then cropped about the middle.

    The steps of PixArtImageProcessor.resize_and_crop_tensor of diffusers, by which pipelines with resolution binning
    (Sana, PixArt) come from the size that they generate to the one that was asked for. Where its float arithmetic ends
    a pixel short of a side, which it then cuts to one row or column, that side is covered here.
    """
    ratio = max(height / images.shape[2], width / images.shape[3])
    sizes = max(height, int(images.shape[2] * ratio)), max(width, int(images.shape[3] * ratio))
    resized = torch.nn.functional.interpolate(images, size=sizes, mode="bilinear", align_corners=False)
    top, left = (sizes[0] - height) // 2, (sizes[1] - width) // 2
    return resized[:, :, top : top + height, left : left + width]


def finished(images: torch.Tensor, spec: JobSpec) -> torch.Tensor:
    """(n, c, h, w) in [-1, 1] -> what `to_pixels` or, for 'pt', `to_raw` makes of them, in the size that is wanted; of
    videos (n, c, frames, h, w) -> (n, frames, h, w, c) uint8, or `to_raw`.

    What must be resized is resized picture by picture. It stays on the device.
    """
    height, width = spec.picture_size
    convert = to_raw if spec.output_type == "pt" else to_pixels if images.ndim == 4 else to_frames
    if images.shape[-2:] == (height, width):
        return convert(images)
    return torch.cat([convert(fit(one, height, width)) for one in torch.split(images, 1)])


def stays(made: torch.Tensor, spec: JobSpec) -> bool:
    """Whether what `finished` made stays on the device: videos, whose frames leave it a few at a time."""
    return made.ndim == 5 and spec.output_type == "pil"


def decoded(
    made: torch.Tensor, spec: JobSpec, dtype: str, switches: tuple[str, ...], widened_from: str | None = None
) -> Decoded:
    """One job's part of what `finished` made, in this host's memory unless it `stays`, and how it was made."""
    if stays(made, spec):
        return Decoded(None, dtype, widened_from, switches, clips=clips_of(made))
    if spec.output_type == "pt":
        return Decoded(None, dtype, widened_from, switches, tensor=HostTensor(made.numpy(), "float16"))
    return Decoded(made.numpy(), dtype, widened_from, switches)


def clips_of(videos: torch.Tensor) -> tuple[Clip, ...]:
    """A clip of each of (n, frames, height, width, c) uint8, which stay where they are."""

    def clip(frames: torch.Tensor) -> Clip:
        count, height, width, channels = frames.shape
        return Clip((count, height, width, channels), lambda start, stop: to_host(frames[start:stop])[0].numpy())

    return tuple(clip(frames) for frames in videos)


def to_frames(videos: torch.Tensor) -> torch.Tensor:
    """(n, c, frames, height, width) in [-1, 1] -> (n, frames, height, width, c) uint8, on their device: each frame as
    `to_pixels`, one at a time, since floats take four times the room."""
    made = videos.new_empty([videos.shape[place] for place in (0, 2, 3, 4, 1)], dtype=torch.uint8)
    for place in range(videos.shape[2]):
        made[:, place] = to_pixels(videos[:, :, place])
    return made


def to_raw(images: torch.Tensor) -> torch.Tensor:
    """(n, c, ..., height, width) -> the same in float16, neither clamped nor denormalised, on their device."""
    return images.to(torch.float16).contiguous()


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """(n, c, height, width) in [-1, 1] -> (n, height, width, c) uint8, on their device.

    The steps and their order are VaeImageProcessor.denormalize, .pt_to_numpy and .numpy_to_pil of diffusers, so
    that each value is the pipeline's: `x * 127.5 + 127.5` differs in a few values per million.
    """
    unit = (images * 0.5 + 0.5).clamp(0, 1)
    return unit.float().mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
