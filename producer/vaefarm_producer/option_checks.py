"""Options against each other, and against a VAE's contract: what no spec tells by itself."""

from typing import Any, Final, get_args

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import InvalidOption
from vaefarm_shared.job import DecodeArgument

#: Pixels of the longest side that a format can hold; PNG has no limit that a picture meets.
MAX_SIDES: Final[dict[str, int]] = {"webp": 16_383, "jpeg": 65_500, "mp4": 16_384}


def check_decode_arguments(given: dict[str, Any], vae: str, contract: Contract) -> None:
    """Raise InvalidOption for what a VAE's decode is not told."""
    for name in get_args(DecodeArgument):
        if given.get(name) is not None and name not in contract.decode_arguments:
            raise InvalidOption(
                f"{name}={given[name]!r} means nothing to VAE {vae!r}, whose decode takes none; leave it out"
            )


def check_no_file(given: dict[str, Any]) -> None:
    """Raise InvalidOption where a raw tensor is wanted as a file."""
    said = [
        name for name in ("image_format", "video_format", "quality", "lossless") if given.get(name) not in (None, False)
    ]
    if said:
        raise InvalidOption(f"output_type='pt' gives a tensor, which no {said[0]} is for; leave {said[0]} out")


def check_of_frames(given: dict[str, Any]) -> None:
    """Raise InvalidOption where a video that is played is wanted as pictures."""
    if "image_format" in given:
        raise InvalidOption(
            "image_format is that of a video's frames in a zip; say video_format='zip', or leave it out"
        )


def check_format(image_format: str, side: int, vae: str, contract: Contract) -> None:
    """Raise InvalidOption for a format that cannot hold the pictures."""
    if image_format == "jpeg" and contract.picture_channels == 4:
        raise InvalidOption(f"image_format='jpeg' has no alpha channel, which VAE {vae!r} gives; use 'png' or 'webp'")
    most = MAX_SIDES.get(image_format)
    if most is not None and side > most:
        raise InvalidOption(f"image_format={image_format!r} holds at most {most} pixels a side, not {side}; use 'png'")
