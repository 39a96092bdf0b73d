"""A decoder's self-test: a fixed latent of each VAE must give the picture that it gave before."""

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from vaefarm_shared.errors import DeviceFault, OutOfMemory, VaeUnavailable
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import from_tensor

from .decoder import BatchItem, Decoded, Pixels, ServedVae

#: Rows and columns of the fixed latent.
SIDE: Final[int] = 8

#: Levels of 255 by which two decodes of the same latent may differ: kernels that add in no fixed order, or that are
#: chosen by the memory that is free, round otherwise. Broken memory is far more off.
TOLERANCES: Final[dict[str, int]] = {"float32": 2, "float16": 2, "bfloat16": 8}

#: Levels by which a mean may differ from the known one: other devices and dtypes round otherwise.
MEAN_TOLERANCE: Final[float] = 2.0

#: Means of the fixed latent's picture for weights that ship with this package, by revision: of the red, green and blue
#: of each quarter, left to right, then down.
KNOWN_MEANS: Final[dict[str, tuple[float, ...]]] = {
    "sha256:d081e9fa7b64": (130.3, 120.5, 134.2, 138.6, 114.4, 99.0, 102.8, 80.9, 70.0, 114.1, 111.4, 59.0),
}


class SelfTest:
    """The picture that each VAE made of the fixed latent when it was first loaded."""

    def __init__(self, device: str, decode: Callable[[BatchItem], Decoded]) -> None:
        self._device = device
        self._decode = decode
        self._items: dict[str, BatchItem] = {}
        self._pictures: dict[str, Pixels] = {}
        self._tolerances: dict[str, int] = {}

    def run(self, vaes: Iterable[ServedVae]) -> None:
        """Decode each, twice where it was not decoded before. Raises DeviceFault where the picture is another."""
        for served in vaes:
            self.begin(served)
            known = self._pictures[served.id]
            off = int(np.abs(pixels_of(self._decoded(served.id)).astype(np.int16) - known).max())
            if off > self._tolerances[served.id]:
                raise self._fault(served.id, f"decodes the same latent to another picture, {off} of 255 off")

    def knows(self, vae: str) -> bool:
        """Whether a VAE was decoded before."""
        return vae in self._pictures

    def begin(self, served: ServedVae) -> None:
        """Decode a VAE that was not decoded before. Raises DeviceFault where what it gives cannot be a picture."""
        if served.id in self._pictures:
            return
        self._items[served.id] = fixed_item(served)
        decoded = self._decoded(served.id)
        self._tolerances[served.id] = TOLERANCES[decoded.dtype]
        self._check_first(served, pixels_of(decoded))
        self._pictures[served.id] = pixels_of(decoded)

    def _decoded(self, vae: str) -> Decoded:
        try:
            return self._decode(self._items[vae])
        except (VaeUnavailable, OutOfMemory):
            raise
        except Exception as error:
            # Whatever it is: the latent is sound, and was decoded before.
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise self._fault(vae, f"cannot decode a known latent: {reason}") from error

    def _check_first(self, served: ServedVae, picture: Pixels) -> None:
        vae, spec, means = served.id, self._items[served.id].spec, KNOWN_MEANS.get(served.revision)
        if picture.shape != (spec.count, spec.height, spec.width, spec.picture_channels):
            raise self._fault(vae, f"decodes a known latent to shape {picture.shape}, not {spec.height} x {spec.width}")
        if picture.min() == picture.max():
            raise self._fault(vae, f"decodes a known latent to a picture of one colour, {picture.min()} of 255")
        if means is not None:
            off = np.abs(quarter_means(picture) - means).max()
            if off > MEAN_TOLERANCE:
                raise self._fault(vae, f"decodes a known latent to another picture, in the mean {off:.0f} of 255 off")

    def _fault(self, vae: str, what: str) -> DeviceFault:
        return DeviceFault(f"self-test of {self._device}: VAE {vae!r} {what}; check the device, or the VAE's weights")


def fixed_item(served: ServedVae) -> BatchItem:
    """A job with one picture of SIDE x SIDE latents that are the same everywhere and for ever."""
    is_video = served.contract.temporal_scale is not None
    shape = (1, served.contract.latent_channels, *([1] if is_video else []), SIDE, SIDE)
    # RandomState's streams are frozen; those of NumPy's newer generators may change.
    latents = from_tensor(np.random.RandomState(0).standard_normal(shape).astype(np.float32))
    side = SIDE * served.contract.spatial_scale
    spec = JobSpec(
        id="self-test",
        vae=served.id,
        dtype="float32",
        shape=shape,
        layout="video" if is_video else "spatial",
        num_frames=1 if is_video else None,
        video_format="zip" if is_video else "mp4",
        count=1,
        height=side,
        width=side,
        picture_channels=served.contract.picture_channels,
        request_hash="",
    )
    return BatchItem(spec, latents)


def pixels_of(decoded: Decoded) -> Pixels:
    """The pixels of a decoder that makes no files; of a video its frames."""
    if decoded.clips:
        return next(decoded.clips[0].chunks())
    if decoded.pixels is None:
        raise TypeError("the decoder made files; expected pixels")
    return decoded.pixels


def quarter_means(picture: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(1, height, width, 3) -> (12,) means of each quarter's colours, left to right, then down."""
    _, height, width, _ = picture.shape
    quarters = picture.reshape(2, height // 2, 2, width // 2, 3)
    return np.asarray(quarters.mean((1, 3)), np.float64).reshape(-1)
