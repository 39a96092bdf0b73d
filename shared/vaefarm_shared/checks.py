"""Latents against a contract: every reason to refuse them, before anything is queued or memory is taken."""

from dataclasses import dataclass
from math import prod
from typing import Final

from .catalogue import Contract
from .errors import InvalidLatents
from .job import Layout

#: Bytes of the largest latent tensor taken.
MAX_LATENT_BYTES: Final[int] = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a latent tensor holds: `count` pictures of `height` x `width` pixels in one of the layouts."""

    layout: Layout
    count: int
    height: int
    width: int


def check_shape(
    vae: str, contract: Contract, shape: tuple[int, ...], height: int | None = None, width: int | None = None
) -> Pictures:
    """Tell what latents of `shape` hold for a VAE.

    Args:
        height, width: pixels of one picture. Needed for packed latents; optional, and checked, for spatial ones.

    Raises:
        InvalidLatents: rank, channels, size, token count or limits; says what was expected.
    """
    for name, value in (("height", height), ("width", width)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InvalidLatents(f"{name} is {value!r}; expected pixels, a whole number above zero")
    if any(size < 1 for size in shape):
        raise InvalidLatents(f"latents have shape {shape}; expected no empty dimension")
    if len(shape) == 4:
        pictures = _spatial(vae, contract, shape, height, width)
    elif len(shape) == 3 and "packed" in contract.layouts:
        pictures = _packed(vae, contract, shape, height, width)
    else:
        raise InvalidLatents(
            f"latents for VAE {vae!r} have rank {len(shape)}, shape {shape}; expected {_expected(contract)}"
        )
    if pictures.height * pictures.width > contract.max_pixels:
        raise InvalidLatents(
            f"latents of shape {shape} decode to {pictures.width} x {pictures.height} pixels;"
            f" VAE {vae!r} takes at most {contract.max_pixels} in one picture"
        )
    if pictures.count > contract.max_count:
        raise InvalidLatents(
            f"latents of shape {shape} hold {pictures.count} pictures; VAE {vae!r} takes at most"
            f" {contract.max_count} in one job: submit them as several"
        )
    return pictures


def check_bytes(shape: tuple[int, ...], itemsize: int) -> None:
    """Raise InvalidLatents for a tensor above MAX_LATENT_BYTES."""
    size = prod(shape) * itemsize
    if size > MAX_LATENT_BYTES:
        raise InvalidLatents(f"latents of shape {shape} have {size} bytes; at most {MAX_LATENT_BYTES} are taken")


def _expected(contract: Contract) -> str:
    scale, channels = contract.spatial_scale, contract.latent_channels
    text = f"(n, {channels}, height/{scale}, width/{scale})"
    if "packed" in contract.layouts:
        text += f" or, packed, (n, (height/{2 * scale})*(width/{2 * scale}), {4 * channels}) with height and width"
    return text


def _spatial(vae: str, contract: Contract, shape: tuple[int, ...], height: int | None, width: int | None) -> Pictures:
    count, channels, rows, columns = shape
    if channels != contract.latent_channels:
        raise InvalidLatents(
            f"latents of shape {shape} have {channels} channels; VAE {vae!r} expects"
            f" {contract.latent_channels}: {_expected(contract)}"
        )
    pictures = Pictures("spatial", count, rows * contract.spatial_scale, columns * contract.spatial_scale)
    if height not in (None, pictures.height) or width not in (None, pictures.width):
        raise InvalidLatents(
            f"latents of shape {shape} decode to height {pictures.height}, width {pictures.width};"
            f" the job says height {height}, width {width}: leave them out, or make them fit"
        )
    return pictures


def _packed(vae: str, contract: Contract, shape: tuple[int, ...], height: int | None, width: int | None) -> Pictures:
    count, tokens, features = shape
    if features != 4 * contract.latent_channels:
        raise InvalidLatents(
            f"packed latents of shape {shape} have {features} features a token; VAE {vae!r} expects"
            f" {4 * contract.latent_channels}: {_expected(contract)}"
        )
    if height is None or width is None:
        raise InvalidLatents(
            f"packed latents of shape {shape} need height and width in pixels: pass what the pipeline got"
        )
    # A pipeline asked for 1000 pixels generates 992: it rounds down to whole tokens.
    side = 2 * contract.spatial_scale
    rows, columns = height // side, width // side
    if rows * columns != tokens:
        raise InvalidLatents(
            f"packed latents of shape {shape} have {tokens} tokens; height {height} and width {width} need"
            f" {rows} x {columns} = {rows * columns}: pass the height and width that the pipeline got"
        )
    return Pictures("packed", count, rows * side, columns * side)
