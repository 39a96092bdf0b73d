"""Latents against a contract: every reason to refuse them, before anything is queued or memory is taken."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from .catalogue import Contract
from .errors import InvalidLatents
from .frames import FRAMES_FIRST, describe_frames, frames_made, latent_frames, padded
from .job import Layout

#: Bytes of the largest latent tensor taken.
MAX_LATENT_BYTES: Final[int] = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a latent tensor holds: `count` pictures, or videos, of `height` x `width` pixels in one of the layouts."""

    layout: Layout
    count: int
    height: int
    width: int
    #: Pixels to which each picture is resized and cropped afterwards; None where it stays as it is.
    crop_height: int | None = None
    crop_width: int | None = None
    #: Frames of each video; None of pictures.
    num_frames: int | None = None


#: Each layout's shape after the number of pictures, for messages and for telling layouts apart: rank, channels as a
#: multiple of the contract's, axis of the channels, and how the rest is written.
_SHAPES: Final[dict[Layout, tuple[int, int, int, str]]] = {
    "spatial": (4, 1, 1, "(n, {c}, height/{s}, width/{s})"),
    "packed": (3, 4, 2, "packed: (n, (height/{s2})*(width/{s2}), {c4}) with height and width"),
    "tokens": (3, 1, 2, "tokens: (n, (height/{s})*(width/{s}), {c}) with height and width"),
    "patchified": (4, 4, 1, "patchified: (n, {c4}, height/{s2}, width/{s2})"),
    "frames": (5, 1, 1, "frames: (n, {c}, 1, height/{s}, width/{s})"),
    "video": (5, 1, 1, "video: (n, {c}, {frames}, height/{s}, width/{s})"),
    "video_tokens": (
        *(3, 1, 2),
        "video_tokens: (n, ({frames})*(height/{s})*(width/{s}), {c}) with num_frames, height and width",
    ),
    "frames_first": (5, 1, 2, "frames_first: (n, {frames}, {c}, height/{s}, width/{s})"),
    "padded": (5, 1, 2, "padded: (n, {frames} made even, {c}, height/{s}, width/{s}) with num_frames"),
}


def check_shape(
    vae: str,
    contract: Contract,
    shape: tuple[int, ...],
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
) -> Pictures:
    """Tell what latents of `shape` hold for a VAE.

    Args:
        height, width: pixels of one picture. Needed for packed latents and tokens; optional, and checked, for others:
            where the contract says `binned`, the picture is resized and cropped to them.
        num_frames: of each video. Needed for video_tokens and padded latents; optional, and checked, for others.

    Raises:
        InvalidLatents: rank, channels, size, token count or limits; says what was expected.
    """
    for name, value, of in (
        ("height", height, "pixels"),
        ("width", width, "pixels"),
        ("num_frames", num_frames, "frames"),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InvalidLatents(f"{name} is {value!r}; expected {of}, a whole number above zero")
    if num_frames is not None and contract.temporal_scale is None:
        raise InvalidLatents(f"num_frames is {num_frames}; VAE {vae!r} makes pictures: leave it out")
    if any(size < 1 for size in shape):
        raise InvalidLatents(f"latents have shape {shape}; expected no empty dimension")
    layout = _layout(vae, contract, shape)
    measure: Callable[..., Pictures] = _MEASURES.get(layout, _from_grid)
    pictures = measure(vae, contract, layout, shape, height, width)
    if contract.temporal_scale is not None:
        count = (_frames_of_tokens if layout == "video_tokens" else _frames_of_grid)(
            vae, contract, pictures, shape, num_frames
        )
        pictures = replace(pictures, num_frames=count)
    _check_limits(vae, contract, shape, pictures)
    return pictures


def check_bytes(shape: tuple[int, ...], itemsize: int) -> None:
    """Raise InvalidLatents for a tensor above MAX_LATENT_BYTES."""
    size = prod(shape) * itemsize
    if size > MAX_LATENT_BYTES:
        raise InvalidLatents(f"latents of shape {shape} have {size} bytes; at most {MAX_LATENT_BYTES} are taken")


def describe_layout(contract: Contract, layout: Layout) -> str:
    """The shape of latents in a layout, as text."""
    c, s = contract.latent_channels, contract.spatial_scale
    frames = describe_frames(layout, contract.temporal_scale or 1)
    return _SHAPES[layout][3].format(c=c, c4=4 * c, s=s, s2=2 * s, frames=frames)


def _expected(contract: Contract) -> str:
    return " or, ".join(describe_layout(contract, layout) for layout in contract.layouts)


def _layout(vae: str, contract: Contract, shape: tuple[int, ...]) -> Layout:
    """The layout of the contract that has this rank and so many channels."""
    of_rank = [layout for layout in contract.layouts if _SHAPES[layout][0] == len(shape)]
    if not of_rank:
        raise InvalidLatents(
            f"latents for VAE {vae!r} have rank {len(shape)}, shape {shape}; expected {_expected(contract)}"
        )
    for layout in of_rank:
        _, times, axis, _ = _SHAPES[layout]
        if shape[axis] == times * contract.latent_channels:
            return layout
    found = shape[_SHAPES[of_rank[0]][2]]
    kind = "features a token" if len(shape) == 3 else "channels"
    wanted = " or ".join(str(_SHAPES[layout][1] * contract.latent_channels) for layout in of_rank)
    raise InvalidLatents(
        f"latents of shape {shape} have {found} {kind}; VAE {vae!r} expects {wanted}: {_expected(contract)}"
    )


def _check_limits(vae: str, contract: Contract, shape: tuple[int, ...], pictures: Pictures) -> None:
    if pictures.height * pictures.width > contract.max_pixels:
        raise InvalidLatents(
            f"latents of shape {shape} decode to {pictures.width} x {pictures.height} pixels;"
            f" VAE {vae!r} takes at most {contract.max_pixels} in one picture"
        )
    if (pictures.num_frames or 0) > contract.max_frames:
        raise InvalidLatents(
            f"latents of shape {shape} decode to {pictures.num_frames} frames; VAE {vae!r} takes at most"
            f" {contract.max_frames} in one video: its catalogue entry's max_frames allows more"
        )
    if pictures.count > contract.max_count:
        raise InvalidLatents(
            f"latents of shape {shape} hold {pictures.count} pictures; VAE {vae!r} takes at most"
            f" {contract.max_count} in one job: submit them as several"
        )


def _frames_of_grid(
    vae: str, contract: Contract, pictures: Pictures, shape: tuple[int, ...], num_frames: int | None
) -> int:
    """Frames of each video whose latents tell them, but for what a pipeline put at their front."""
    layout, scale = pictures.layout, contract.temporal_scale or 1
    held = shape[1 if layout in FRAMES_FIRST else 2]
    if layout == "padded":
        if num_frames is None:
            raise InvalidLatents(
                f"latents of shape {shape} need num_frames: VAE {vae!r} has the pipeline make their number even, and"
                f" does not tell {frames_made(layout, held - 1, scale)} frames from {frames_made(layout, held, scale)};"
                " pass what the pipeline got"
            )
        wanted = latent_frames(num_frames, scale)
        if padded(wanted) == held and frames_made(layout, wanted, scale) == num_frames:
            return num_frames
    found = frames_made(layout, held, scale)
    if layout == "padded" or num_frames not in (None, found):
        omit = "" if layout == "padded" else "leave it out, or "
        raise InvalidLatents(
            f"latents of shape {shape} decode to {_either(layout, held, scale)} frames; the job says num_frames"
            f" {num_frames}{_fits(layout, scale, num_frames)}: {omit}make it fit ({describe_layout(contract, layout)})"
        )
    return found


def _either(layout: Layout, held: int, scale: int) -> str:
    found = frames_made(layout, held, scale)
    return f"{frames_made(layout, held - 1, scale)} or {found}" if layout == "padded" else str(found)


def _fits(layout: Layout, scale: int, num_frames: int | None) -> str:
    """What a number of frames that no latents make should have been, for messages."""
    if num_frames is None or frames_made(layout, latent_frames(num_frames, scale), scale) == num_frames:
        return ""
    if layout in FRAMES_FIRST:
        return f"; it is made of 1 + {2 * scale}n or {2 * scale}n frames"
    return f"; it is made of 1 + {scale}n frames"


def _frames_of_tokens(
    vae: str, contract: Contract, pictures: Pictures, shape: tuple[int, ...], num_frames: int | None
) -> int:
    """Frames of each video whose latents are tokens, checked with its size: rows and columns by frames."""
    scale, side = contract.temporal_scale or 1, contract.spatial_scale
    if num_frames is None:
        raise InvalidLatents(
            f"video tokens of shape {shape} need num_frames, height and width: pass what the pipeline got"
        )
    frames, rows, columns = latent_frames(num_frames, scale), pictures.height // side, pictures.width // side
    fits = _fits(pictures.layout, scale, num_frames)
    if frames * rows * columns != shape[1] or fits:
        raise InvalidLatents(
            f"video tokens of shape {shape} have {shape[1]} tokens; num_frames {num_frames}, height {pictures.height}"
            f" and width {pictures.width} need {frames} x {rows} x {columns} = {frames * rows * columns}{fits}:"
            f" VAE {vae!r} expects {describe_layout(contract, pictures.layout)}"
        )
    return num_frames


def _from_grid(
    vae: str, contract: Contract, layout: Layout, shape: tuple[int, ...], height: int | None, width: int | None
) -> Pictures:
    if layout == "frames" and shape[2] != 1:
        raise InvalidLatents(
            f"latents of shape {shape} hold {shape[2]} frames; VAE {vae!r} makes pictures, of one frame each:"
            f" expected {_expected(contract)}"
        )
    side = contract.spatial_scale * (2 if layout == "patchified" else 1)
    pictures = Pictures(layout, shape[0], shape[-2] * side, shape[-1] * side)
    asked = height or pictures.height, width or pictures.width
    if asked == (pictures.height, pictures.width):
        return pictures
    if not contract.binned:
        raise InvalidLatents(
            f"latents of shape {shape} decode to height {pictures.height}, width {pictures.width};"
            f" the job says height {height}, width {width}: leave them out, or make them fit"
        )
    ratio = max(asked[0] / pictures.height, asked[1] / pictures.width)
    if pictures.height * pictures.width * ratio**2 > contract.max_pixels:
        raise InvalidLatents(
            f"latents of shape {shape} decode to {pictures.width} x {pictures.height} pixels and would be resized"
            f" {ratio:.1f} times for {asked[1]} x {asked[0]}; VAE {vae!r} takes at most {contract.max_pixels} pixels"
        )
    return Pictures(layout, pictures.count, pictures.height, pictures.width, *asked)


def _from_video_tokens(
    vae: str, contract: Contract, layout: Layout, shape: tuple[int, ...], height: int | None, width: int | None
) -> Pictures:
    side = contract.spatial_scale
    if height is None or width is None or height < side or width < side:
        raise InvalidLatents(
            f"video tokens of shape {shape} need num_frames, height and width, of {side} pixels at least; the job says"
            f" height {height}, width {width}: pass what the pipeline got"
        )
    return Pictures(layout, shape[0], height // side * side, width // side * side)


def _from_tokens(
    vae: str, contract: Contract, layout: Layout, shape: tuple[int, ...], height: int | None, width: int | None
) -> Pictures:
    count, tokens, _ = shape
    if height is None or width is None:
        raise InvalidLatents(
            f"packed latents of shape {shape} need height and width in pixels: pass what the pipeline got"
        )
    # A pipeline asked for 1000 pixels generates 992: it rounds down to blocks of 2 x 2 latents.
    side = 2 * contract.spatial_scale
    rows, columns = height // side, width // side
    if layout == "tokens":
        rows, columns = 2 * rows, 2 * columns
    if rows * columns != tokens:
        raise InvalidLatents(
            f"packed latents of shape {shape} have {tokens} tokens; height {height} and width {width} need"
            f" {rows} x {columns} = {rows * columns}: pass the height and width that the pipeline got"
        )
    return Pictures(layout, count, height // side * side, width // side * side)


_MEASURES: Final[dict[Layout, Callable[..., Pictures]]] = {
    "packed": _from_tokens,
    "tokens": _from_tokens,
    "video_tokens": _from_video_tokens,
}
