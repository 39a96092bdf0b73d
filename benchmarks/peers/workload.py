"""What every side is given and must give back: latents of 128 KiB, and images of 64 KiB that tell their latents."""

import zlib
from collections.abc import Sequence
from random import Random
from typing import Final

#: Bytes of one latent: 1 x 4 x 128 x 128 in float16.
LATENT_BYTES: Final = 128 * 1024

#: Bytes of one image.
IMAGE_BYTES: Final = 64 * 1024

#: Seed of the first latent; the next has the next.
SEED: Final = 20250101

#: Bytes -> bytes without the bits that would make a float16 of them infinite or no number.
FINITE: Final = bytes(byte & 0x3B for byte in range(256))

#: What an image holds besides the checksum of its latent.
FILLING: Final = bytes(IMAGE_BYTES - 4)


def latents(count: int) -> list[bytes]:
    """The first `count` latents, all different, the same in every run and environment."""
    return [Random(SEED + place).randbytes(LATENT_BYTES).translate(FINITE) for place in range(count)]


def checksum(latent: bytes) -> bytes:
    """Four bytes that tell a latent from any other of the burst."""
    return zlib.crc32(latent).to_bytes(4, "big")


def decode(latent: bytes) -> bytes:
    """The decoder that does nothing: an image of `IMAGE_BYTES` that begins with its latent's checksum."""
    return checksum(latent) + FILLING


def check(wanted: Sequence[bytes], images: Sequence[bytes]) -> None:
    """Raise AssertionError unless each image has its size and holds the checksum wanted at its place."""
    assert len(images) == len(wanted), f"{len(images)} images came back for {len(wanted)} latents"
    for place, (sum_, image) in enumerate(zip(wanted, images, strict=True)):
        assert len(image) == IMAGE_BYTES, f"image {place} has {len(image)} bytes; expected {IMAGE_BYTES}"
        assert sum_ in image, f"image {place} is of another latent"
